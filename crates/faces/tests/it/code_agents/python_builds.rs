//! Projects for Python, with and without packages (spec/castari.md 9.4).

use backlot_testkit::{Project, TestServer};
use serde_json::json;

use super::{ask, create, deploy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_requirements_the_program_runs_on_what_is_there() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "plain").await;
    let program = "import sys\nprint(sys.stdin.read().upper(), sys.prefix == sys.base_prefix)";
    let log = deploy(&ada, "plain", &Project::python(program)).await;
    assert!(!log.contains("pip"), "{log}");
    assert_eq!(ask(&ada, "plain", "grüße").await, "GRÜSSE True");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requirements_are_installed_into_an_environment_of_their_own() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "six").await;
    let program = "import sys, six\nprint(six.__version__, sys.prefix)";
    let project = Project::python(program).with("requirements.txt", "six==1.16.0\n");
    let log = deploy(&ada, "six", &project).await;
    assert!(log.contains("-m venv"), "{log}");
    assert_eq!(ask(&ada, "six", "").await, "1.16.0 /workspace/.venv");
    let again = project.with("main.py", format!("print('again')\n{program}"));
    let log = deploy(&ada, "six", &again).await;
    assert!(log.contains("reusing what was installed before") && !log.contains("venv"), "{log}");
    assert_eq!(ask(&ada, "six", "").await, "again\n1.16.0 /workspace/.venv");
    let missing = again.with("requirements.txt", "six==0.0.0.1\n");
    let failed = ada.upload("six", &missing).await;
    assert_eq!((failed.status, &failed.body["code"]), (400, &json!("install_failed")), "{failed:?}");
    let detail = failed.body["detail"].as_str().unwrap();
    assert!(detail.starts_with("pip install failed: ") && detail.contains("six==0.0.0.1"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requirements_in_other_files_count_too() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "nested").await;
    let program = "import six\nprint(six.__version__)";
    let project = Project::python(program).with("requirements.txt", "-r base.txt\n");
    for version in ["1.16.0", "1.15.0"] {
        deploy(&ada, "nested", &project.clone().with("base.txt", format!("six=={version}\n"))).await;
        assert_eq!(ask(&ada, "nested", "").await, version);
    }
}
