//! Models on both engines: calls are booked once, on their run and its ancestors, whatever happens.

use std::{sync::Arc, time::Duration};

use backlot_db::args;
use backlot_domain::{
    Clock as _, RandomIds, SystemClock,
    accounts::{self, Accounts, Vault},
    models::{Block, CallError, Limits, Models, Prices, Provider, ProviderKeys, Request, Settings, Usage},
    runs::{self, Body, NewRun, Run, Runs},
};
use backlot_models::{Answer, Message, Role};
use backlot_testkit::{
    TestDatabase, both_engines,
    scripted_model::{ScriptedModel, Turn},
};
use serde_json::Value;

const ADA: &str = "usr_ada";
const KEY: &str = "sk-operator-0123456789";
const TAKES: Usage = Usage { input: 10, output: 20, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, reasoning: 0 };
/// 10 tokens at one cent and 20 at two.
const COST: u64 = 500_000_000;

struct World {
    runs: Arc<Runs>,
    models: Arc<Models>,
    provider: ScriptedModel,
}

async fn world(database: &TestDatabase, limits: Limits) -> World {
    let db = database.db().clone();
    db.write(|tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO accounts (id, created_at) VALUES ($1, 0)", args![ADA]).await.map(drop)
        })
    })
    .await
    .expect("an account");
    let provider = ScriptedModel::start().await;
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let runs = Runs::new(db.clone(), clock.clone(), ids.clone(), runs::Settings::default());
    let vault = Arc::new(Vault::from_text(&"ab".repeat(32)).expect("a key"));
    let accounts = Accounts::new(db.clone(), vault, clock.clone(), ids.clone(), accounts::Settings::default());
    let prices = r#"models."claude-test" = { input = 10000, output = 20000 }"#;
    let settings = Settings {
        providers: vec![Provider::anthropic(Some(&provider.anthropic_url()), Some(KEY.into()))],
        prices: Prices::parse(prices).expect("prices"),
        limits,
        ..Settings::default()
    };
    let models = Models::new(db, Arc::clone(&runs), Arc::new(accounts), clock, ids, settings).expect("the service");
    World { runs, models, provider }
}

impl World {
    async fn run(&self, parent: Option<&Run>) -> Run {
        let new = NewRun {
            prefix: "run",
            kind: "models_test",
            account_id: ADA.to_owned(),
            subject: "thing".to_owned(),
            session: None,
            parent_id: parent.map(|run| run.id.clone()),
            input: Value::Null,
            deadline: None,
            idempotency_key: None,
        };
        self.runs.start(new, None).await.expect("a run").run
    }

    async fn find(&self, run: &Run) -> Run {
        self.runs.get(ADA, &run.id).await.expect("the run")
    }
}

fn request(text: &str) -> Request {
    let content = vec![Block::Text { text: text.to_owned() }];
    Request {
        model: "claude-test".to_owned(),
        messages: vec![Message { role: Role::User, content }],
        max_tokens: Some(100),
        ..Request::default()
    }
}

/// Puts a call into the books as one that began `ago` and has not ended.
async fn open_call(database: &TestDatabase, id: &'static str, run: &Run, ago: Duration) {
    let run_id = run.id.clone();
    let began = SystemClock.now().0 - i64::try_from(ago.as_millis()).expect("small");
    database
        .db()
        .write(move |tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO model_calls (id, account_id, run_id, provider, model, input_tokens, output_tokens, \
                     cache_read, cache_write_5m, cache_write_1h, reasoning, estimated, status, duration_ms, created_at) \
                     VALUES ($1, $2, $3, 'anthropic', 'claude-test', 7, 0, 0, 0, 0, 0, TRUE, 0, 0, $4)",
                    args![id, ADA, run_id, began],
                )
                .await
                .map(drop)
            })
        })
        .await
        .expect("a row");
}

both_engines! {
    async fn a_call_is_booked_on_its_run_and_the_runs_above(database: &TestDatabase) {
        let world = world(database, Limits::default()).await;
        let parent = world.run(None).await;
        let child = world.run(Some(&parent)).await;
        let token = world.models.open_run_token(&child, ProviderKeys::default());
        world.provider.push(Turn::text("Good ").say("day.").usage(TAKES));
        let events = world.models.complete(token.caller(), request("hello")).await.expect("an answer");
        let answer = Answer::collect(events).await.expect("a whole answer");
        assert_eq!((answer.text().as_str(), answer.usage), ("Good day.", TAKES));
        drop(token);
        world.models.settle(&child.id).await;
        for run in [&parent, &child] {
            let usage = world.find(run).await.usage;
            assert_eq!((usage.input_tokens, usage.output_tokens, usage.cost_nano_usd), (10, 20, COST));
        }
        let calls = world.models.calls(ADA, 10).await.expect("calls");
        assert_eq!((calls.len(), calls[0].usage, calls[0].cost_nano_usd), (1, TAKES, Some(COST)));
        assert_eq!((calls[0].status, calls[0].estimated), (Some(200), false));
        assert_eq!(calls[0].run_id.as_deref(), Some(child.id.as_str()));
    }

    async fn calls_in_doubt_are_booked_once(database: &TestDatabase) {
        let world = world(database, Limits::default()).await;
        let run = world.run(None).await;
        open_call(database, "call_dead", &run, Duration::from_secs(24 * 3600)).await;
        assert_eq!(world.models.recover().await.expect("recovery"), 1);
        assert_eq!(world.models.recover().await.expect("recovery"), 0);
        let usage = world.find(&run).await.usage;
        assert_eq!((usage.input_tokens, usage.cost_nano_usd, usage.model_calls), (7, 70_000_000, 1));
        let call = &world.models.calls(ADA, 10).await.expect("calls")[0];
        assert_eq!((call.status, call.estimated), (Some(599), true));
    }

    async fn a_resumed_run_takes_over_what_its_dead_execution_left(database: &TestDatabase) {
        let world = world(database, Limits::default()).await;
        let mut run = world.run(None).await;
        open_call(database, "call_dead", &run, Duration::from_secs(60)).await;
        if database.db().engine() == backlot_db::Engine::Sqlite {
            assert_eq!(world.models.recover().await.expect("recovery"), 1, "at start, whatever is open");
        } else {
            assert_eq!(world.models.recover().await.expect("recovery"), 0, "it may be another node's");
        }
        run.epoch = 2;
        let token = world.models.open_run_token(&run, ProviderKeys::default());
        drop(token);
        world.models.settle(&run.id).await;
        assert_eq!(world.find(&run).await.usage.model_calls, 1);
    }

    async fn budgets_hold_for_the_servers_own_calls(database: &TestDatabase) {
        let limits = Limits { run_cost_nano_usd: Some(3_000_000_000), ..Limits::default() };
        let world = world(database, limits).await;
        let run = world.run(None).await;
        let token = world.models.open_run_token(&run, ProviderKeys::default());
        world.provider.respond_with(|_| Turn::text("ok").usage(TAKES));
        let mut answered = 0;
        let refusal: CallError = loop {
            match world.models.complete(token.caller(), request("hi")).await {
                Ok(events) => drop(Answer::collect(events).await.expect("a whole answer")),
                Err(refusal) => break refusal,
            }
            answered += 1;
        };
        assert_eq!(refusal.code, Some("budget_exceeded"));
        assert!((1..6).contains(&answered), "{answered}");
        let error = backlot_domain::Error::from(refusal);
        assert_eq!((error.kind, error.code), (backlot_domain::Kind::LimitReached, "budget_exceeded"));
    }
}

/// The journal is told, too: covered through HTTP by the gateway's own tests, here the shape of the event.
#[test]
fn a_model_call_reads_the_same_after_years() {
    let stored = r#"{"kind":"model_called","call_id":"call_1","provider":"local","model":"m","usage":{"input_tokens":1,
        "output_tokens":2,"cost_nano_usd":null,"estimated":true},"status":599,"duration_ms":3}"#;
    let body: Body = serde_json::from_str(stored).expect("old entries stay readable");
    assert!(matches!(body, Body::ModelCalled { status: 599, .. }));
}
