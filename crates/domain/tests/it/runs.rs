//! The run journal on both engines: gapless events, recorded steps, leases, fairness, followers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backlot_db::Db;
use backlot_domain::{
    Clock, Kind, RandomIds, SystemClock, Timestamp,
    page::Window,
    runs::{
        Body, CallUsage, Channel, Effect, Executor, Failure, Filter, Followed, Item, NewRun, Outcome, Position,
        RunContext, Runs, Settings, Status,
    },
};
use backlot_testkit::{TestDatabase, both_engines};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

/// What a test's executor does with a run.
type Script = dyn Fn(Arc<World>, &RunContext) -> futures::future::BoxFuture<'_, Outcome> + Send + Sync;

/// A journal with one scripted kind of run.
struct World {
    runs: Arc<Runs>,
    calls: Arc<AtomicUsize>,
    order: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
    reached: Arc<Notify>,
}

struct Scripted {
    world: Mutex<Option<Arc<World>>>,
    script: Box<Script>,
    slots: usize,
}

#[async_trait::async_trait]
impl Executor for Scripted {
    async fn execute(&self, run: &RunContext) -> Outcome {
        let world = self.world.lock().expect("lock").clone().expect("the world is set");
        (self.script)(world, run).await
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn is_metered(&self) -> bool {
        true
    }
}

const KIND: &str = "scripted";
const ADA: &str = "usr_ada";
const BOB: &str = "usr_bob";

async fn people(db: &Db) {
    for (id, email) in [(ADA, "ada@example.org"), (BOB, "bob@example.org")] {
        db.write(move |tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO accounts (id, email, created_at) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
                    backlot_db::args![id, email],
                )
                .await
                .map(drop)
            })
        })
        .await
        .expect("an account");
    }
}

/// The machine's clock, which a test can put forward.
#[derive(Default)]
struct Forward(AtomicI64);

impl Clock for Forward {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0.load(Ordering::SeqCst))
    }
}

/// A world of its own on a database; several on one database are several nodes.
async fn node(
    db: &Db,
    slots: usize,
    lease: Duration,
    script: impl Fn(Arc<World>, &RunContext) -> futures::future::BoxFuture<'_, Outcome> + Send + Sync + 'static,
) -> Arc<World> {
    node_at(db, slots, lease, Arc::new(SystemClock), script).await
}

async fn node_at(
    db: &Db,
    slots: usize,
    lease: Duration,
    clock: Arc<dyn Clock>,
    script: impl Fn(Arc<World>, &RunContext) -> futures::future::BoxFuture<'_, Outcome> + Send + Sync + 'static,
) -> Arc<World> {
    people(db).await;
    let settings = Settings { lease, ..Settings::default() };
    let runs = Runs::new(db.clone(), clock, Arc::new(RandomIds), settings);
    let executor = Arc::new(Scripted { world: Mutex::new(None), script: Box::new(script), slots });
    runs.register(KIND, Arc::clone(&executor) as Arc<dyn Executor>);
    let world = Arc::new(World {
        runs,
        calls: Arc::default(),
        order: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
        reached: Arc::new(Notify::new()),
    });
    *executor.world.lock().expect("lock") = Some(Arc::clone(&world));
    world
}

fn new_run(account: &str) -> NewRun {
    NewRun {
        prefix: "run",
        kind: KIND,
        account_id: account.to_owned(),
        subject: String::from("thing"),
        session: None,
        parent_id: None,
        input: Value::Null,
        deadline: None,
        idempotency_key: None,
    }
}

const LONG: Duration = Duration::from_secs(3600);

fn ok<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{}: {}", failure.code, failure.message))
}

async fn stored(world: &World, id: &str) -> Vec<Body> {
    let events = world.runs.events(ADA, id, 0, 10_000).await.expect("events");
    let numbers: Vec<i64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=i64::try_from(events.len()).expect("few")).collect::<Vec<_>>(), "gapless from 1");
    let terminal = events.iter().filter(|event| event.body.is_terminal()).count();
    assert!(terminal <= 1, "at most one terminal event");
    if terminal == 1 {
        assert!(events.last().expect("some").body.is_terminal(), "nothing after the terminal event");
    }
    events.into_iter().map(|event| event.body).collect()
}

both_engines! {
    async fn a_run_is_a_gapless_sequence_with_one_end(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 4, LONG, |_, run| {
            Box::pin(async move {
                ok(run.text(Channel::Answer, "Hello, ").await);
                ok(run.text(Channel::Answer, "world").await);
                ok(run.text(Channel::Stderr, "psst").await);
                ok(run.step("one", "first step", Effect::Once, json!({"x": 1}), async { Ok(json!(42)) }).await);
                ok(run.text(Channel::Answer, "!").await);
                Outcome::completed(json!("done"))
            })
        })
        .await;
        world.runs.spawn_workers().await.expect("workers");
        let started = world.runs.start(new_run(ADA), None).await.expect("start");
        let ended = world.runs.wait(&started.run.id).await.expect("wait");
        assert_eq!((ended.status, ended.output), (Status::Completed, Some(json!("done"))));
        let bodies = stored(&world, &started.run.id).await;
        let words: Vec<String> = bodies
            .iter()
            .map(|body| match body {
                Body::Text { channel, text, .. } => format!("{channel:?}:{text}"),
                Body::StepStarted { key, intent, .. } => format!("start {key} {intent}"),
                Body::StepFinished { key, result } => format!("finish {key} {result:?}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            words,
            [
                "Started",
                "Answer:Hello, world",
                "Stderr:psst",
                "start one {\"x\":1}",
                "finish one Ok(Number(42))",
                "Answer:!",
                "Completed"
            ]
        );
    }

    async fn followers_see_every_event_once_and_text_without_gaps(database: &TestDatabase) {
        let db = database.db().clone();
        const PIECES: usize = 60;
        let world = node(&db, 4, LONG, |world, run| {
            Box::pin(async move {
                for piece in 0..PIECES {
                    ok(run.text(Channel::Answer, &format!("{piece:03} ä→")).await);
                    if piece % 7 == 3 {
                        ok(run.note("mark", json!(piece)).await);
                    }
                    if piece == PIECES / 2 {
                        world.reached.notify_one();
                        let _open = world.gate.acquire().await;
                    }
                    tokio::task::yield_now().await;
                }
                Outcome::completed(Value::Null)
            })
        })
        .await;
        world.runs.spawn_workers().await.expect("workers");
        let started = world.runs.start(new_run(ADA), None).await.expect("start");
        let id = started.run.id;
        // One reader from before the middle, one that joins in the middle, one after the end.
        let early = world.runs.follow(ADA, &id, Position::default()).await.expect("follow");
        let early = tokio::spawn(early.try_collect::<Vec<Followed>>());
        world.reached.notified().await;
        let middle = world.runs.follow(ADA, &id, Position::default()).await.expect("follow");
        world.gate.add_permits(1);
        let middle: Vec<Followed> = middle.try_collect().await.expect("read");
        let early = early.await.expect("join").expect("read");
        let late: Vec<Followed> =
            world.runs.follow(ADA, &id, Position::default()).await.expect("follow").try_collect().await.expect("read");
        let whole: String = (0..PIECES).map(|piece| format!("{piece:03} ä→")).collect();
        let text = |seen: &[Followed]| -> String {
            seen.iter()
                .filter_map(|followed| match &followed.item {
                    Item::Text { text, .. } => Some(text.as_str()),
                    Item::Event(_) => None,
                })
                .collect()
        };
        let events = |seen: &[Followed]| -> Vec<i64> {
            seen.iter()
                .filter_map(|followed| match &followed.item {
                    Item::Event(event) => Some(event.seq),
                    Item::Text { .. } => None,
                })
                .collect()
        };
        for seen in [&early, &middle, &late] {
            assert_eq!(text(seen), whole);
            assert_eq!(events(seen), events(&late));
        }
        // From every place at which the early reader stood, the rest is exactly the rest.
        for (index, followed) in early.iter().enumerate() {
            let rest: Vec<Followed> =
                world.runs.follow(ADA, &id, followed.position).await.expect("follow").try_collect().await.expect("read");
            let before = text(early.get(..=index).expect("within"));
            assert_eq!(before.clone() + &text(&rest), whole, "from {}", followed.position);
        }
    }

    async fn recorded_steps_are_never_repeated_and_doubt_is_told(database: &TestDatabase) {
        let db = database.db().clone();
        fn script(world: Arc<World>, run: &RunContext) -> futures::future::BoxFuture<'_, Outcome> {
            let kind = run.run().input.as_str().unwrap_or_default().to_owned();
            Box::pin(async move {
                let calls = Arc::clone(&world.calls);
                ok(run
                    .step("a", "recorded", Effect::Once, Value::Null, async move {
                        calls.fetch_add(1, Ordering::SeqCst);
                        Ok(json!("first"))
                    })
                    .await);
                let effect = if kind == "idempotent" { Effect::Idempotent } else { Effect::Once };
                let second = run
                    .step("b", "in doubt", effect, Value::Null, async {
                        if run.run().epoch == 1 {
                            world.reached.notify_one();
                            std::future::pending::<()>().await;
                        }
                        Ok(json!("second"))
                    })
                    .await;
                match second {
                    Ok(value) => Outcome::completed(value),
                    Err(failure) => Outcome::failed(failure),
                }
            })
        }
        for (kind, status) in [("once", Status::Failed), ("idempotent", Status::Completed)] {
            // A node that never renews its lease in the time of this test is as good as dead once the clock is put forward.
            let clock = Arc::new(Forward::default());
            let dead = node_at(&db, 4, LONG, Arc::clone(&clock) as Arc<dyn Clock>, script).await;
            dead.runs.spawn_workers().await.expect("workers");
            let id = dead.runs.start(NewRun { input: json!(kind), ..new_run(ADA) }, None).await.expect("start").run.id;
            dead.reached.notified().await;
            // It claims nothing more, and what it executes stays as it is.
            dead.runs.drain(Duration::ZERO).await;
            clock.0.fetch_add(2 * 3_600_000, Ordering::SeqCst);
            let heir = node_at(&db, 4, LONG, clock, script).await;
            heir.runs.spawn_workers().await.expect("workers");
            let ended = heir.runs.wait(&id).await.expect("wait");
            assert_eq!(ended.status, status, "{kind}");
            assert_eq!(dead.calls.load(Ordering::SeqCst), 1);
            assert_eq!(heir.calls.load(Ordering::SeqCst), 0, "the recorded step is not executed again");
            if status == Status::Failed {
                let error = ended.error.expect("a reason");
                assert_eq!(error.code, "step_in_doubt");
                assert!(error.message.contains("`in doubt`"), "{}", error.message);
            }
            assert!(stored(&heir, &id).await.contains(&Body::Resumed));
            heir.runs.drain(Duration::from_secs(5)).await;
        }
    }

    async fn one_accounts_thousand_runs_do_not_hold_up_anothers_one(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 1, LONG, |world, run| {
            Box::pin(async move {
                world.order.lock().expect("lock").push(run.run().account_id.clone());
                Outcome::completed(Value::Null)
            })
        })
        .await;
        for _ in 0..1000 {
            world.runs.start(new_run(ADA), None).await.expect("start");
        }
        let bobs = world.runs.start(new_run(BOB), None).await.expect("start").run.id;
        world.runs.spawn_workers().await.expect("workers");
        world.runs.wait(&bobs).await.expect("wait");
        let order = world.order.lock().expect("lock").clone();
        let place = order.iter().position(|account| account == BOB).expect("it ran");
        assert!(place <= 20, "Bob's one run came as number {place} of {}", order.len());
        world.runs.drain(Duration::from_secs(30)).await;
    }

    async fn stopping_ends_a_run_and_its_children(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 2, LONG, |world, run| {
            Box::pin(async move {
                world.reached.notify_one();
                run.stopped().cancelled().await;
                Outcome::failed(Failure::new("stopped", "asked to"))
            })
        })
        .await;
        let parent = world.runs.start(new_run(ADA), None).await.expect("start").run.id;
        world.runs.spawn_workers().await.expect("workers");
        world.reached.notified().await;
        let child = NewRun { parent_id: Some(parent.clone()), ..new_run(ADA) };
        let running = world.runs.start(child, None).await.expect("start").run.id;
        world.reached.notified().await;
        // Both slots are taken: this one waits.
        let child = NewRun { parent_id: Some(running.clone()), ..new_run(ADA) };
        let waiting = world.runs.start(child, None).await.expect("start").run.id;
        world.runs.stop(&parent).await.expect("stop");
        for id in [&parent, &running, &waiting] {
            assert_eq!(world.runs.wait(id).await.expect("wait").status, Status::Stopped);
            assert_eq!(stored(&world, id).await.last(), Some(&Body::Stopped));
        }
        world.runs.stop(&parent).await.expect("stopping an ended run does nothing");
    }

    async fn deadlines_end_running_and_waiting_runs(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 1, Duration::from_millis(300), |_, run| {
            Box::pin(async move {
                run.stopped().cancelled().await;
                Outcome::failed(Failure::new("timeout", "Timeout exceeded"))
            })
        })
        .await;
        world.runs.spawn_workers().await.expect("workers");
        let deadline = Some(Duration::from_millis(400));
        let first = world.runs.start(NewRun { deadline, ..new_run(ADA) }, None).await.expect("start").run.id;
        let second = world.runs.start(NewRun { deadline: Some(Duration::ZERO), ..new_run(ADA) }, None).await.expect("start");
        for id in [first, second.run.id] {
            let ended = world.runs.wait(&id).await.expect("wait");
            assert_eq!(ended.status, Status::Failed);
            assert_eq!(ended.error.expect("a reason").code, "timeout");
        }
    }

    async fn an_idempotency_key_gives_the_first_run_again(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 1, LONG, |_, _| Box::pin(async { Outcome::completed(Value::Null) })).await;
        let keyed = |account: &str| NewRun { idempotency_key: Some(String::from("k")), ..new_run(account) };
        let first = world.runs.start(keyed(ADA), None).await.expect("start");
        let again = world.runs.start(keyed(ADA), None).await.expect("start");
        assert_eq!((first.run.id.clone(), true), (again.run.id, again.repeated));
        let other = world.runs.start(keyed(BOB), None).await.expect("start");
        assert_ne!(first.run.id, other.run.id, "keys of different accounts are different keys");
    }

    async fn a_key_whose_run_was_given_up_before_it_began_starts_another(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 1, LONG, |_, _| Box::pin(async { Outcome::completed(Value::Null) })).await;
        let keyed = || NewRun { idempotency_key: Some(String::from("k")), ..new_run(ADA) };
        let first = world.runs.start(keyed(), None).await.expect("start").run.id;
        assert!(world.runs.withdraw(&first, Failure::new("capacity", "No capacity")).await.expect("withdraw"));
        let second = world.runs.start(keyed(), None).await.expect("start");
        assert!(!second.repeated && second.run.id != first);
        world.runs.spawn_workers().await.expect("workers");
        world.runs.wait(&second.run.id).await.expect("wait");
        let third = world.runs.start(keyed(), None).await.expect("start");
        assert_eq!((third.repeated, third.run.id), (true, second.run.id));
    }

    async fn a_clock_put_forward_does_not_make_a_node_take_its_own_runs(database: &TestDatabase) {
        let db = database.db().clone();
        let clock = Arc::new(Forward::default());
        let world = node_at(&db, 4, LONG, Arc::clone(&clock) as Arc<dyn Clock>, |world, run| {
            Box::pin(async move {
                world.calls.fetch_add(1, Ordering::SeqCst);
                if run.run().input == json!("long") {
                    world.reached.notify_one();
                    let _open = world.gate.acquire().await;
                }
                Outcome::completed(Value::Null)
            })
        })
        .await;
        world.runs.spawn_workers().await.expect("workers");
        let long = world.runs.start(NewRun { input: json!("long"), ..new_run(ADA) }, None).await.expect("start").run.id;
        world.reached.notified().await;
        // As after a night in which the machine slept: the lease is over, its holder is not.
        clock.0.fetch_add(2 * 3_600_000, Ordering::SeqCst);
        let short = world.runs.start(new_run(ADA), None).await.expect("start").run.id;
        world.runs.wait(&short).await.expect("wait");
        world.gate.add_permits(1);
        assert_eq!(world.runs.wait(&long).await.expect("wait").status, Status::Completed);
        assert_eq!(world.calls.load(Ordering::SeqCst), 2);
        assert!(!stored(&world, &long).await.contains(&Body::Resumed));
    }

    async fn a_run_that_could_not_be_loaded_is_claimed_again(database: &TestDatabase) {
        let db = database.db().clone();
        fn script(world: Arc<World>, run: &RunContext) -> futures::future::BoxFuture<'_, Outcome> {
            Box::pin(async move {
                let step = run.step("a", "a step", Effect::Idempotent, Value::Null, async {
                    if run.run().epoch == 1 {
                        world.reached.notify_one();
                        std::future::pending::<()>().await;
                    }
                    Ok(Value::Null)
                });
                ok(step.await);
                Outcome::completed(Value::Null)
            })
        }
        async fn replace(db: &Db, from: &'static str, to: &'static str) {
            let sql = "UPDATE run_events SET payload = REPLACE(payload, $1, $2) WHERE kind = 'step_started'";
            db.write(move |tx| Box::pin(async move { tx.execute(sql, backlot_db::args![from, to]).await }))
                .await
                .expect("replaced");
        }
        let clock = Arc::new(Forward::default());
        let dead = node_at(&db, 4, LONG, Arc::clone(&clock) as Arc<dyn Clock>, script).await;
        dead.runs.spawn_workers().await.expect("workers");
        let id = dead.runs.start(new_run(ADA), None).await.expect("start").run.id;
        dead.reached.notified().await;
        dead.runs.drain(Duration::ZERO).await;
        replace(&db, "step_started", "step_unknown").await;
        clock.0.fetch_add(2 * 3_600_000, Ordering::SeqCst);
        let heir = node_at(&db, 4, Duration::from_millis(300), clock, script).await;
        heir.runs.spawn_workers().await.expect("workers");
        while heir.runs.get(ADA, &id).await.expect("get").epoch < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        replace(&db, "step_unknown", "step_started").await;
        assert_eq!(heir.runs.wait(&id).await.expect("wait").status, Status::Completed);
    }

    async fn usage_is_rolled_up_and_another_accounts_run_is_absent(database: &TestDatabase) {
        let db = database.db().clone();
        let world = node(&db, 4, LONG, |world, _| {
            Box::pin(async move {
                let _open = world.gate.acquire().await;
                Outcome::completed(Value::Null)
            })
        })
        .await;
        world.runs.spawn_workers().await.expect("workers");
        let parent = world.runs.start(new_run(ADA), None).await.expect("start").run.id;
        let child = NewRun { parent_id: Some(parent.clone()), subject: String::from("other"), ..new_run(ADA) };
        let child = world.runs.start(child, None).await.expect("start").run.id;
        // Until both are running, so that the call's event has a place.
        for id in [&parent, &child] {
            let mut events = Box::pin(world.runs.follow(ADA, id, Position::default()).await.expect("follow"));
            events.next().await.expect("started").expect("read");
        }
        let usage = CallUsage { input_tokens: 10, output_tokens: 5, cost_nano_usd: Some(7), estimated: false };
        for usage in [usage, CallUsage { cost_nano_usd: None, ..usage }] {
            let id = child.clone();
            let body = Body::ModelCalled {
                call_id: String::from("call"),
                provider: String::from("p"),
                model: String::from("m"),
                usage,
                status: 200,
                duration_ms: 1,
            };
            let now = SystemClock.now();
            let event = db
                .write(move |tx| Box::pin(async move { Runs::book_model_call(tx, now, &id, body, usage).await }))
                .await
                .expect("book");
            world.runs.show(&child, event.expect("it runs"));
        }
        world.gate.add_permits(2);
        for id in [&parent, &child] {
            let ended = world.runs.wait(id).await.expect("wait");
            let totals = ended.usage;
            assert_eq!((totals.input_tokens, totals.output_tokens, totals.cost_nano_usd), (20, 10, 7));
            assert_eq!((totals.model_calls, totals.unpriced_calls), (2, 1));
        }
        let days = world.runs.daily_usage(ADA, &Timestamp(0).date(), None).await.expect("days");
        assert_eq!(days.iter().map(|day| day.runs).sum::<u64>(), 2);
        let error = world.runs.get(BOB, &parent).await.expect_err("it is Ada's");
        assert_eq!(error.kind, Kind::NotFound);
        let bobs = Filter { account_id: BOB.to_owned(), kind: KIND, ..Filter::default() };
        assert_eq!(world.runs.list(bobs, Window { limit: 10, offset: 0 }).await.expect("list").total, 0);
    }
}

/// What a run of the property test does, step by step.
#[derive(Debug, Clone)]
enum Action {
    Text(u8),
    Note,
    Step(Effect),
}

/// Where an execution dies.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Death {
    at: usize,
    /// Inside the step, so that its outcome is unknown, rather than before it.
    inside: bool,
}

fn action() -> impl proptest::strategy::Strategy<Value = Action> {
    use proptest::prelude::*;
    prop_oneof![
        (0_u8..40).prop_map(Action::Text),
        Just(Action::Note),
        Just(Action::Step(Effect::Once)),
        Just(Action::Step(Effect::Idempotent)),
    ]
}

/// Executes the actions; the first execution dies where it is told to.
fn perform(
    actions: Vec<Action>,
    death: Death,
    executed: Arc<Mutex<Vec<usize>>>,
) -> impl Fn(Arc<World>, &RunContext) -> futures::future::BoxFuture<'_, Outcome> + Send + Sync + 'static {
    move |world, run| {
        let (actions, executed) = (actions.clone(), Arc::clone(&executed));
        Box::pin(async move {
            let dies = run.run().epoch == 1;
            for (index, action) in actions.iter().enumerate() {
                let here = dies && death.at == index;
                if here && !(death.inside && matches!(action, Action::Step(_))) {
                    world.reached.notify_one();
                    std::future::pending::<()>().await;
                }
                match action {
                    Action::Text(length) => ok(run.text(Channel::Answer, &"ü".repeat(usize::from(*length))).await),
                    Action::Note => ok(run.note("note", json!(index)).await),
                    Action::Step(effect) => {
                        let result = run
                            .step(&index.to_string(), "step", *effect, Value::Null, async {
                                executed.lock().expect("lock").push(index);
                                if here {
                                    world.reached.notify_one();
                                    std::future::pending::<()>().await;
                                }
                                Ok(json!(index))
                            })
                            .await;
                        match result {
                            Ok(value) => assert_eq!(value, json!(index), "a recorded result is the result"),
                            Err(failure) => return Outcome::failed(failure),
                        }
                    }
                }
            }
            Outcome::completed(Value::Null)
        })
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 24, ..proptest::test_runner::Config::default() })]

    /// Whatever a run does and wherever its first execution dies: its events stay gapless with one end, every step has
    /// one intent and at most one result, and only an idempotent step in doubt is executed twice.
    #[test]
    fn a_death_anywhere_breaks_no_promise(
        actions in proptest::collection::vec(action(), 1..12),
        place in 0_usize..12,
        inside in proptest::bool::ANY,
    ) {
        let death = Death { at: place % actions.len(), inside };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let database = TestDatabase::sqlite().await;
            let clock = Arc::new(Forward::default());
            let executed = Arc::<Mutex<Vec<usize>>>::default();
            let script = || perform(actions.clone(), death, Arc::clone(&executed));
            let dead = node_at(database.db(), 1, LONG, Arc::clone(&clock) as Arc<dyn Clock>, script()).await;
            dead.runs.spawn_workers().await.expect("workers");
            let id = dead.runs.start(new_run(ADA), None).await.expect("start").run.id;
            dead.reached.notified().await;
            dead.runs.drain(Duration::ZERO).await;
            clock.0.fetch_add(2 * 3_600_000, Ordering::SeqCst);
            let heir = node_at(database.db(), 1, LONG, clock, script()).await;
            heir.runs.spawn_workers().await.expect("workers");
            let ended = heir.runs.wait(&id).await.expect("wait");

            let in_doubt = matches!(actions.get(death.at), Some(Action::Step(_))) && inside;
            let is_lost = in_doubt && matches!(actions.get(death.at), Some(Action::Step(Effect::Once)));
            assert_eq!(ended.status, if is_lost { Status::Failed } else { Status::Completed });
            let bodies = stored(&heir, &id).await;
            assert!(bodies.last().expect("some").is_terminal());
            let executed = executed.lock().expect("lock").clone();
            for (index, action) in actions.iter().enumerate() {
                let Action::Step(_) = action else { continue };
                let key = index.to_string();
                let intents = bodies.iter().filter(|b| matches!(b, Body::StepStarted { key: k, .. } if *k == key)).count();
                let results = bodies.iter().filter(|b| matches!(b, Body::StepFinished { key: k, .. } if *k == key)).count();
                let times = executed.iter().filter(|step| **step == index).count();
                let was_reached = !is_lost || index <= death.at;
                assert_eq!(intents, usize::from(was_reached), "intents of step {index}");
                assert_eq!(results, usize::from(was_reached && !(is_lost && index == death.at)), "results of step {index}");
                let twice = in_doubt && !is_lost && index == death.at;
                assert_eq!(times, if twice { 2 } else { usize::from(was_reached) }, "executions of step {index}");
            }
        });
        runtime.shutdown_background();
    }
}
