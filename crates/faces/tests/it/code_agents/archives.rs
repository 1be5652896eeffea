//! Archives that mean harm are refused whole, over HTTP as everybody sends them (spec/castari.md 9.1).

use backlot_testkit::{Answer, ECHO, Person, Project, RawArchive, TestServer};
use reqwest::Method;
use serde_json::json;

use super::{api, ask, create, deploy, names_in, until};

async fn upload(who: &Person, slug: &str, archive: Vec<u8>) -> Answer {
    let form = reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(archive).file_name("code"));
    Answer::to(who.request(Method::POST, &api(&format!("/agents/{slug}/upload-code"))).multipart(form)).await
}

/// An archive that would be fine without what a test adds.
fn fine() -> RawArchive {
    let manifest = super::manifest("node", "main.mjs", "slug", &json!("x"));
    RawArchive::default().file("castari.json", manifest.as_bytes()).file("main.mjs", ECHO.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ways_out_of_the_project_are_refused_by_name_and_leave_nothing() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "careful").await;
    deploy(&ada, "careful", &Project::node("console.log('still here')")).await;
    let before = ada.get(&api("/agents/careful")).await.body;
    let code_agents = server.data().code_agents();
    let (staged, layers) = (names_in(&code_agents.join("staging")), names_in(&code_agents.join("layers")));
    for (archive, told) in [
        (fine().file("../../escaped", b"x"), "`../../escaped` leads outside"),
        (fine().file("a/../../escaped", b"x"), "leads outside"),
        (fine().file("/tmp/escaped", b"x"), "`/tmp/escaped` leads outside"),
        (fine().symlink("way-out", "/etc"), "`way-out` leads outside the project, to `/etc`"),
        (fine().symlink("up", "../.."), "`up` leads outside the project"),
        (fine().symlink("door", "sub").file("door/x", b"x"), "`door"),
        (fine().symlink("out", "sub/up/../etc").symlink("sub/up", ".."), "`out` climbs out of another link"),
        (fine().hard_link("copy", "main.mjs"), "`copy` is neither a file"),
        (fine().device("null"), "`null` is neither a file"),
        (fine().file("Main.mjs", b"x"), "differs from another path in upper and lower case only"),
        (fine().file("main.mjs", b"x"), "`main.mjs` comes up twice"),
        (fine().file("back\\slash", b"x"), "backslash"),
        (fine().file("main.mjs/inside", b"x"), "`main.mjs"),
    ] {
        let refused = upload(&ada, "careful", archive.gzip()).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("archive_refused")), "{told}: {refused:?}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.starts_with("The code cannot be used: ") && detail.contains(told), "{told}: {detail}");
        assert!(!detail.contains("staging"), "places of the server are not told: {detail}");
    }
    // Cut short, or no archive.
    let whole = fine().gzip();
    for broken in [whole[..whole.len() / 2].to_vec(), b"PK\x03\x04 and no more".to_vec(), vec![0x1f, 0x8b], Vec::new()]
    {
        let refused = upload(&ada, "careful", broken).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("archive_refused")), "{refused:?}");
    }
    until("the staging folders are gone", async || names_in(&code_agents.join("staging")) == staged).await;
    assert_eq!(names_in(&code_agents.join("layers")), layers);
    assert!(!std::path::Path::new("/tmp/escaped").exists());
    assert_eq!(ada.get(&api("/agents/careful")).await.body, before, "a refused archive changes nothing");
    assert_eq!(ask(&ada, "careful", "").await, "still here");
    // The archive without harm is taken, packed or not.
    for archive in [whole, fine().tar()] {
        assert_eq!(upload(&ada, "careful", archive).await.status, 201);
        assert_eq!(ask(&ada, "careful", "hello").await, "hello");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_before_they_fill_the_disk() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "bomb").await;
    // A gibibyte and more of zeros in a few megabytes, and very many empty files.
    let large = fine().zeros("zeros", (1 << 30) + 1).gzip();
    assert!(large.len() < 16 << 20, "the bomb is small: {} bytes", large.len());
    let many =
        (0..50_001).fold(RawArchive::default(), |archive, n| archive.file(&format!("{}/{n}", n % 100), b"")).gzip();
    for (bomb, told) in [(large, "more than 1024 MiB"), (many, "more than 50000 files")] {
        let refused = upload(&ada, "bomb", bomb).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("archive_refused")), "{refused:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains(told), "{refused:?}");
        let staging = server.data().code_agents().join("staging");
        until("the staging folder is gone", async || names_in(&staging).is_empty()).await;
    }
    // One file that says it is larger than any disk.
    let boast = fine().boast("huge", u64::MAX >> 1).gzip();
    let refused = upload(&ada, "bomb", boast).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("archive_refused")), "{refused:?}");
    assert_eq!(ada.get(&api("/agents/bomb")).await.body["status"], "draft");
}
