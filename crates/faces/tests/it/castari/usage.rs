//! Usage and cost, with calls through the gateway to a scripted provider.

use backlot_testkit::{Project, TestServer, scripted_model::Turn};
use insta::assert_json_snapshot;
use serde_json::json;

use super::api;

/// Calls the gateway as an SDK would, for a model named by the prompt.
const CALLS_A_MODEL: &str = "
    const prompt = await new Response(process.stdin).text();
    const answer = await fetch(process.env.ANTHROPIC_BASE_URL + '/v1/messages', {
        method: 'POST',
        headers: {'x-api-key': process.env.ANTHROPIC_API_KEY, 'anthropic-version': '2023-06-01',
                  'content-type': 'application/json'},
        body: JSON.stringify({model: prompt, max_tokens: 100, messages: [{role: 'user', content: 'hello'}]}),
    });
    const body = await answer.json();
    console.log(body.content?.[0]?.text ?? JSON.stringify(body));
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_cost_of_the_programs_calls_are_reported() {
    let (server, ada, _) = TestServer::start().await;
    ada.deploy("talker", &Project::node(CALLS_A_MODEL)).await;
    server.model.push(Turn::text("good morning"));
    let answer = ada.invoke("talker", "claude-sonnet-4-5-20250929").await;
    assert_eq!(answer.body["response_content"], "good morning", "{answer:?}");
    let (input, output) =
        (answer.body["input_tokens"].as_u64().unwrap(), answer.body["output_tokens"].as_u64().unwrap());
    assert!(input > 0 && output > 0, "{answer:?}");
    assert_eq!(answer.body["unpriced_calls"], 0);
    let cost: f64 = answer.body["total_cost_usd"].as_str().unwrap().parse().unwrap();
    assert!(cost > 0.0, "{answer:?}");

    // An unknown price stays unknown: it is told as a call without one, not as a zero that looks like a price.
    server.model.push(Turn::text("good night"));
    let unpriced = ada.invoke("talker", "claude-of-the-future").await;
    assert_eq!(unpriced.body["response_content"], "good night", "{unpriced:?}");
    assert_eq!(unpriced.body["total_cost_usd"], "0.000000");
    assert_eq!(unpriced.body["unpriced_calls"], 1, "{unpriced:?}");

    let usage = ada.get(&api("/usage?days=7")).await;
    assert_eq!(usage.body["total_invocations"], 2);
    assert_eq!(usage.body["total_cost_usd"], answer.body["total_cost_usd"]);
    assert_eq!(usage.body["unpriced_calls"], 1);
    let total = input + unpriced.body["input_tokens"].as_u64().unwrap();
    assert_eq!(usage.body["total_input_tokens"], total);
    let daily = ada.get(&api("/usage/daily?days=7&agent=talker")).await;
    assert_eq!(daily.body["total_days"], 7);
    assert_eq!(daily.body["daily_usage"][0]["invocation_count"], 2);
    assert_eq!(daily.body["daily_usage"][0]["cost_usd"], answer.body["total_cost_usd"]);
    let item = ada.get(&api("/agents/talker/invocations?limit=1")).await;
    assert_eq!(item.body["invocations"][0]["model_calls"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_invocations_there_is_nothing_to_report() {
    let (_server, ada, _) = TestServer::start().await;
    assert_json_snapshot!(ada.get(&api("/usage")).await.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "total_invocations": 0,
        "total_input_tokens": 0,
        "total_output_tokens": 0,
        "total_cost_usd": "0.000000",
        "unpriced_calls": 0,
        "period_start": "[time]",
        "period_end": "[time]"
      }
    }
    "#);
    assert_json_snapshot!(ada.get(&api("/usage/daily")).await.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "daily_usage": [],
        "total_days": 30
      }
    }
    "#);
    assert_json_snapshot!(ada.get(&api("/usage?days=366")).await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "query",
              "days"
            ],
            "msg": "ensure this value is less than or equal to 365",
            "type": "value_error.number.not_le",
            "ctx": {
              "limit_value": 365
            }
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_eq!(ada.get(&api("/usage?days=0")).await.status, 422);
    assert_eq!(
        ada.get(&api("/usage?agent=nobody")).await.body,
        json!({"detail": "Agent not found", "code": "agent_not_found"})
    );
}
