//! A server that dies in the middle of a call, and what its next life finds.

use std::time::Duration;

use backlot_domain::models::Wire;
use backlot_testkit::scripted_model::Turn;

use super::world::{Setup, World, question};

#[tokio::test]
async fn a_call_that_died_with_the_server_is_booked_as_a_guess() {
    let world = World::start().await;
    let run = world.run().await;
    world.provider.push(Turn::text("begun").stall());
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "claude-test-1", "hi", true)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // The intent is on the disk.
    let open = async {
        while world.domain.models.calls(&world.account_id, 10).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), open).await.unwrap();
    assert_eq!(world.domain.models.calls(&world.account_id, 10).await.unwrap()[0].status, None);

    let world = world.restart(&Setup::default()).await;
    let call = &world.calls(1).await[0];
    assert_eq!((call.status, call.estimated), (Some(599), true));
    assert!(call.usage.input > 0 && call.cost_nano_usd.is_some_and(|cost| cost > 0));
    assert_eq!(world.ended(&run.id).await.usage.model_calls, 1);
    // Nobody books it again, neither another recovery nor the late end of the first life's call.
    assert_eq!(world.domain.models.recover().await.unwrap(), 0);
    drop(answer);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.journal(&run.id).await.usage.model_calls, 1);
}
