//! Walls between accounts: generated tests that walk every route of the API document.

use backlot_testkit::{Answer, Person, Project, TestServer};
use reqwest::Method;
use serde_json::{Value, json};

use super::document::operations;

/// What a route names: the things of somebody else, or things that never were.
struct Names {
    slug: String,
    secret: String,
    session: String,
    invocation: String,
    deployment: String,
    api_key: String,
}

impl Names {
    /// Puts names into a route.
    fn fill(&self, route: &str) -> String {
        let id = if route.contains("/sessions/") {
            &self.session
        } else if route.contains("/deployments/") {
            &self.deployment
        } else if route.contains("/api-keys/") {
            &self.api_key
        } else {
            &self.invocation
        };
        format!("/castari{route}").replace("{slug}", &self.slug).replace("{key}", &self.secret).replace("{id}", id)
    }

    fn absent() -> Self {
        Self {
            slug: "absent".into(),
            secret: "ABSENT".into(),
            session: "absent".into(),
            invocation: "inv_00000000000000000000000000".into(),
            deployment: "dep_00000000000000000000000000".into(),
            api_key: "ak_00000000000000000000000000".into(),
        }
    }
}

fn routes() -> Vec<(String, Method, Value)> {
    let documents = backlot_faces::openapi_documents();
    let (_, text) = documents.into_iter().find(|(path, _)| path.starts_with("castari/")).unwrap();
    let all = operations(&serde_json::from_str(&text).unwrap());
    assert!(all.len() > 30, "the walk is not empty");
    all.into_iter().map(|(route, method, operation)| (route, method.parse().unwrap(), operation)).collect()
}

/// A request that would succeed if the things it names were the caller's.
fn call(who: &Person, method: &Method, path: &str, operation: &Value) -> reqwest::RequestBuilder {
    let request = who.request(method.clone(), path);
    let content = &operation["requestBody"]["content"];
    if content["multipart/form-data"].is_object() {
        let part = reqwest::multipart::Part::bytes(Project::node("").pack()).file_name("code.tar.gz");
        return request.multipart(reqwest::multipart::Form::new().part("file", part));
    }
    if content["application/json"].is_object() {
        return request.json(&json!({"name": "renamed", "prompt": "hello", "key": "NAME", "value": "x"}));
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_accounts_object_answers_like_an_absent_one() {
    let (server, ada, _) = TestServer::start().await;
    let eve = server.register("eve@example.com").await;
    ada.deploy("hers", &Project::node("console.log('hers')")).await;
    let secret = json!({"key": "HER_SECRET", "value": "hers"});
    assert_eq!(ada.post("/castari/api/v1/agents/hers/secrets", secret).await.status, 201);
    let turn = json!({"prompt": "", "session_id": "hers"});
    let invocation = ada.post("/castari/api/v1/agents/hers/invoke", turn).await;
    assert_eq!(invocation.body["status"], "completed", "{invocation:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let deployments = ada.get("/castari/api/v1/agents/hers/deployments").await;
    let keys = ada.get("/castari/api/v1/api-keys").await;
    let hers = Names {
        slug: "hers".into(),
        secret: "HER_SECRET".into(),
        session: "hers".into(),
        invocation: text(&invocation.body["invocation_id"]),
        deployment: text(&deployments.body["deployments"][0]["id"]),
        api_key: text(&keys.body["api_keys"][0]["id"]),
    };
    let before = snapshot(&ada).await;
    let mut walked = 0;
    for (route, method, operation) in routes().into_iter().filter(|(route, ..)| route.contains('{')) {
        let foreign = Answer::to(call(&eve, &method, &hers.fill(&route), &operation)).await;
        let absent = Answer::to(call(&eve, &method, &Names::absent().fill(&route), &operation)).await;
        assert_eq!(foreign.status, 404, "{method} {route}: {foreign:?}");
        assert_eq!((foreign.status, &foreign.body), (absent.status, &absent.body), "{method} {route}");
        walked += 1;
    }
    assert!(walked > 20, "only {walked} routes name something");
    // Filters name things too.
    for path in ["/invocations?agent=", "/usage?agent=", "/usage/daily?agent="] {
        let foreign = eve.get(&format!("/castari/api/v1{path}hers")).await;
        let absent = eve.get(&format!("/castari/api/v1{path}absent")).await;
        assert_eq!((foreign.status, &foreign.body), (absent.status, &absent.body), "{path}");
    }
    assert_eq!(snapshot(&ada).await, before, "nothing of hers has changed");
    // What is hers is all there for her: the walk named things that exist.
    for (route, method, _) in
        routes().into_iter().filter(|(route, method, _)| route.contains('{') && method == Method::GET)
    {
        if !route.ends_with("/events") {
            assert_eq!(ada.get(&hers.fill(&route)).await.status, 200, "{method} {route}");
        }
    }
}

/// Everything that could have been changed.
async fn snapshot(who: &Person) -> Vec<Value> {
    let mut all = Vec::new();
    for path in
        ["/agents/hers", "/agents/hers/secrets", "/agents/hers/sessions", "/agents/hers/deployments", "/invocations"]
    {
        all.push(who.get(&format!("/castari/api/v1{path}")).await.body);
    }
    let keys = who.get("/castari/api/v1/api-keys").await.body;
    all.push(keys["api_keys"][0]["id"].clone());
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_answers_without_a_valid_credential() {
    let (_server, _ada, anonymous) = TestServer::start().await;
    let garbage = [
        "cast_aaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "cap_aaaaaaaa_bbbbbbbbbbbbbbbbbbbb",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c3JfMSJ9.",
        "sk-castari-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "\u{e4}",
        "x",
    ];
    for (route, method, operation) in routes() {
        let path = Names::absent().fill(&route);
        let missing = Answer::to(call(&anonymous, &method, &path, &operation)).await;
        assert_eq!(missing.status, 401, "{method} {route}: {missing:?}");
        assert_eq!(missing.body, json!({"detail": "Missing or invalid authentication", "code": "unauthorized"}));
        assert_eq!(missing.header("www-authenticate"), "Bearer");
        for credential in garbage {
            let refused = Answer::to(call(&anonymous.with_credential(credential), &method, &path, &operation)).await;
            assert_eq!((refused.status, &refused.body), (401, &missing.body), "{method} {route} with {credential}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bound_of_the_document_is_kept() {
    let (_server, ada, _) = TestServer::start().await;
    let documents = backlot_faces::openapi_documents();
    let document: Value = serde_json::from_str(&documents[0].1).unwrap();
    ada.post("/castari/api/v1/agents", json!({"name": "absent"})).await;
    let mut checked = 0;
    for (route, method, operation) in routes() {
        let path = Names::absent().fill(&route);
        for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            for wrong in beyond(&parameter["schema"]) {
                let wrong = wrong.as_str().map_or_else(|| wrong.to_string(), str::to_owned);
                let request = call(&ada, &method, &path, &operation).query(&[(name, &wrong)]);
                expect_refusal(Answer::to(request).await, &json!(["query", name]), &format!("{method} {route}"));
                checked += 1;
            }
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        for (name, property) in properties(&document, schema) {
            for wrong in beyond(&property) {
                let mut body = json!({"name": "other", "prompt": "", "key": "NAME", "value": "x"});
                body[&name] = wrong;
                let request = ada.request(method.clone(), &path).json(&body);
                expect_refusal(Answer::to(request).await, &json!(["body", name]), &format!("{method} {route}"));
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "only {checked} bounds were found");
}

fn expect_refusal(answer: Answer, place: &Value, route: &str) {
    assert_eq!((answer.status, &answer.body["detail"][0]["loc"]), (422, place), "{route}: {answer:?}");
}

/// The properties of a body's schema, through references.
fn properties(document: &Value, schema: &Value) -> Vec<(String, Value)> {
    let mut pending = vec![schema.clone()];
    while let Some(schema) = pending.pop() {
        if let Some(reference) = schema["$ref"].as_str() {
            pending.push(document.pointer(&reference[1..]).unwrap().clone());
        }
        if let Some(properties) = schema["properties"].as_object() {
            return properties.iter().map(|(name, property)| (name.clone(), property.clone())).collect();
        }
        pending.extend(schema["oneOf"].as_array().into_iter().flatten().cloned());
    }
    Vec::new()
}

/// Values just beyond the bounds that a schema states.
fn beyond(schema: &Value) -> Vec<Value> {
    let mut wrong = Vec::new();
    let number = |name: &str| schema[name].as_i64();
    if let Some(least) = number("minimum") {
        wrong.push(json!(least - 1));
    }
    if let Some(most) = number("maximum") {
        wrong.push(json!(most + 1));
    }
    if let Some(most) = number("maxLength") {
        wrong.push(json!("x".repeat(usize::try_from(most).unwrap() + 1)));
    }
    if let Some(least) = number("minLength").filter(|least| *least > 0) {
        wrong.push(json!("x".repeat(usize::try_from(least).unwrap() - 1)));
    }
    if schema["pattern"].is_string() {
        wrong.push(json!("not / a \u{1f319} name"));
    }
    if let Some(words) = schema["enum"].as_array().filter(|words| !words.is_empty()) {
        wrong.push(json!(format!("{}x", words[0].as_str().unwrap_or_default())));
    }
    wrong
}
