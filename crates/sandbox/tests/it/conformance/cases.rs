//! The promises, one case each.

use std::{path::PathBuf, time::Duration};

use backlot_sandbox::{Cause, Command, Error, Limits, Output, ReadOnly, Spec, process::workspace_of};

use super::stage::{Stage, await_nobody_runs, await_output, finish, program, read, run, sh, somebody_runs};

pub(crate) async fn exit_codes_and_signals_are_told(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    for (script, code, signal) in [
        ("true", Some(0), None),
        ("false", Some(1), None),
        ("exit 7", Some(7), None),
        ("kill -SEGV $$", None, Some(11)),
    ] {
        let ended = run(&*sandbox, sh(script)).await;
        assert_eq!((ended.exit.cause, ended.exit.code, ended.exit.signal), (Cause::Exited, code, signal), "{script}");
    }
    let direct = run(&*sandbox, program(&["/bin/true"])).await;
    assert_eq!(direct.exit.code, Some(0));
    sandbox.destroy().await;
}

pub(crate) async fn what_cannot_start_is_an_error_and_leaves_the_sandbox_usable(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let wrong = [
        program(&["no-such-program"]),
        program(&["/workspace"]),
        program(&["./absent"]),
        Command { argv: Vec::new(), ..sh("") },
        Command { cwd: PathBuf::from("/absent"), ..sh("true") },
        Command { env: vec![("A".into(), "with\0zero".into())], ..sh("true") },
    ];
    for command in wrong {
        let argv = command.argv.clone();
        match sandbox.exec(command).await {
            Err(Error::Start { reason, .. }) => assert!(!reason.is_empty(), "{argv:?}"),
            other => panic!("{argv:?}: {}", other.err().map_or("started".into(), |error| error.to_string())),
        }
    }
    assert_eq!(run(&*sandbox, sh("echo fine")).await.stdout, "fine\n");
    sandbox.destroy().await;
}

pub(crate) async fn input_arrives_whole_and_ends(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    for size in [0, 1, 65_536, 3_000_000] {
        let command = Command { stdin: vec![b'x'; size].into(), ..sh("wc -c; cat") };
        assert_eq!(run(&*sandbox, command).await.stdout.trim(), size.to_string());
    }
    let echo = Command { stdin: "a prompt\nwith lines".into(), ..program(&["cat"]) };
    assert_eq!(run(&*sandbox, echo).await.stdout, "a prompt\nwith lines");
    let unread = Command { stdin: vec![0; 1 << 20].into(), ..sh("exit 3") };
    assert_eq!(run(&*sandbox, unread).await.exit.code, Some(3));
    sandbox.destroy().await;
}

pub(crate) async fn output_arrives_whole_and_in_order(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let ended = run(&*sandbox, sh("seq 1 200000; echo problem >&2")).await;
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(ended.stdout == expected, "{} bytes", ended.stdout.len());
    assert_eq!(ended.stderr, "problem\n");
    let reopened = run(&*sandbox, sh("echo out > /dev/stdout; echo err > /dev/stderr")).await;
    assert_eq!((reopened.stdout.as_str(), reopened.stderr.as_str()), ("out\n", "err\n"));
    sandbox.destroy().await;
}

pub(crate) async fn output_is_streamed_while_the_program_runs(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let mut execution = sandbox.exec(sh("echo first; exec sleep 1000")).await.unwrap();
    await_output(&mut execution, "first").await;
    execution.kill.now();
    assert_eq!(finish(execution).await.exit.cause, Cause::Killed);
    sandbox.destroy().await;
}

pub(crate) async fn too_much_output_ends_the_program(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let ended = run(&*sandbox, Command { stdout_limit: 100_000, ..program(&["yes"]) }).await;
    assert_eq!((ended.exit.cause, ended.stdout.len()), (Cause::OutputLimit, 100_000));
    let exact = run(&*sandbox, Command { stdout_limit: 4, ..sh("printf abcd") }).await;
    assert_eq!((exact.exit.cause, exact.stdout.as_str()), (Cause::Exited, "abcd"));
    sandbox.destroy().await;
}

pub(crate) async fn too_much_error_output_is_dropped(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let ended = run(&*sandbox, Command { stderr_limit: 1000, ..sh("seq 1 100000 >&2; echo done") }).await;
    assert_eq!((ended.exit.code, ended.stderr.len(), ended.stdout.as_str()), (Some(0), 1000, "done\n"));
    sandbox.destroy().await;
}

pub(crate) async fn past_its_time_a_program_is_asked_and_then_killed(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let limit = Duration::from_millis(300);
    let polite =
        Command { timeout: limit, ..sh("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.01; done") };
    let ended = run(&*sandbox, polite).await;
    assert_eq!((ended.exit.cause, ended.exit.code), (Cause::Timeout, Some(9)), "{ended:?}");
    assert!(ended.stdout.ends_with("bye\n"), "{ended:?}");
    let deaf = Command { timeout: limit, ..sh("trap '' TERM; while :; do sleep 0.01; done") };
    let ended = run(&*sandbox, deaf).await;
    assert_eq!((ended.exit.cause, ended.exit.signal), (Cause::Timeout, Some(9)), "{ended:?}");
    assert!(ended.exit.duration >= limit + Duration::from_millis(200), "{ended:?}");
    sandbox.destroy().await;
}

pub(crate) async fn a_program_can_be_killed(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let mut execution = sandbox.exec(sh("trap '' TERM; echo up; while :; do sleep 0.01; done")).await.unwrap();
    await_output(&mut execution, "up").await;
    let kill = execution.kill.clone();
    kill.now();
    kill.now();
    let ended = finish(execution).await;
    assert_eq!((ended.exit.cause, ended.exit.signal), (Cause::Killed, Some(9)));
    kill.now();
    assert_eq!(run(&*sandbox, sh("echo next")).await.stdout, "next\n");
    sandbox.destroy().await;
}

pub(crate) async fn dropping_an_execution_kills_its_program(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let mark = mark("dropped");
    let execution = sandbox.exec(program(&["sleep", &mark])).await.unwrap();
    assert!(somebody_runs(&mark));
    drop(execution);
    await_nobody_runs(&mark).await;
    sandbox.destroy().await;
}

pub(crate) async fn destroying_and_dropping_end_everything(stage: Stage) {
    for destroy in [true, false] {
        let sandbox = stage.sandbox(if destroy { "destroyed" } else { "dropped" }).await;
        let mark = mark("doomed");
        let mut execution = sandbox
            .exec(sh(&format!("setsid sleep {mark} & trap '' TERM; echo up; sleep {mark}; sleep {mark}")))
            .await
            .unwrap();
        await_output(&mut execution, "up").await;
        if destroy {
            sandbox.destroy().await;
            assert!(!somebody_runs(&mark), "destroy waits for the end of everything");
        } else {
            drop(sandbox);
        }
        let ended = finish(execution).await;
        assert_eq!(ended.exit.cause, Cause::Killed);
        await_nobody_runs(&mark).await;
    }
}

pub(crate) async fn a_second_program_has_to_wait(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let execution = sandbox.exec(program(&["sleep", "1000"])).await.unwrap();
    assert!(matches!(sandbox.exec(sh("true")).await, Err(Error::Busy)));
    execution.kill.now();
    finish(execution).await;
    assert_eq!(run(&*sandbox, sh("true")).await.exit.code, Some(0));
    sandbox.destroy().await;
}

pub(crate) async fn children_left_behind_end_with_the_program(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let mark = mark("daemon");
    // In a session of its own, its parent gone, deaf to SIGTERM, holding on to standard output.
    let script = format!("(setsid sh -c \"trap '' TERM HUP; sleep {mark}; sleep {mark}\" & ) ; sleep 0.1; echo end");
    let ended = run(&*sandbox, sh(&script)).await;
    assert_eq!((ended.exit.code, ended.stdout.as_str()), (Some(0), "end\n"));
    assert!(!somebody_runs(&mark));
    sandbox.destroy().await;
}

pub(crate) async fn a_fork_bomb_is_contained(stage: Stage) {
    let sandbox = stage.limited(Limits { processes: 40, ..Limits::default() }).await;
    let bomb = "import os, time\nmade = 0\ntry:\n    for _ in range(200):\n        if os.fork() == 0:\n            time.sleep(100)\n        made += 1\nexcept OSError:\n    pass\nprint(made)";
    let ended = run(&*sandbox, program(&["/usr/bin/python3", "-c", bomb])).await;
    let made: usize = ended.stdout.trim().parse().unwrap();
    assert!((20..=40).contains(&made), "{ended:?}");
    let endless = "import os
while True:
    try:
        os.fork()
    except OSError:
        pass";
    let timed = Command { timeout: Duration::from_millis(700), ..program(&["/usr/bin/python3", "-c", endless]) };
    assert_eq!(run(&*sandbox, timed).await.exit.cause, Cause::Timeout);
    assert_eq!(run(&*sandbox, sh("echo usable")).await.stdout, "usable\n");
    sandbox.destroy().await;
}

pub(crate) async fn memory_is_limited(stage: Stage) {
    let sandbox = stage.limited(Limits { memory_bytes: 128 << 20, ..Limits::default() }).await;
    let hog = "a = []\nwhile True:\n    a.append(bytearray(4 << 20))";
    let ended = run(&*sandbox, program(&["/usr/bin/python3", "-c", hog])).await;
    assert_eq!(ended.exit.cause, Cause::OutOfMemory, "{ended:?}");
    // Each of the children stays below the limit; together they do not.
    let family = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        a = bytearray(os.urandom(1 << 20)) * 48\n        time.sleep(100)\ntime.sleep(100)";
    let ended = run(&*sandbox, program(&["/usr/bin/python3", "-c", family])).await;
    assert_eq!(ended.exit.cause, Cause::OutOfMemory, "{ended:?}");
    let modest =
        run(&*sandbox, program(&["/usr/bin/python3", "-c", "a = bytearray(40 << 20); import time; time.sleep(0.2)"]))
            .await;
    assert_eq!((modest.exit.cause, modest.exit.code), (Cause::Exited, Some(0)), "{modest:?}");
    if let Some(peak) = modest.exit.peak_memory {
        assert!((40 << 20..128 << 20).contains(&peak), "{peak}");
    }
    sandbox.destroy().await;
}

pub(crate) async fn disk_is_limited_everywhere(stage: Stage) {
    let limits = Limits { disk_bytes: 48 << 20, ..Limits::default() };
    for place in ["/workspace", "/tmp", "/home/agent"] {
        let spec = Spec { limits: limits.clone(), ..stage.spec(&place.replace('/', "-")) };
        let sandbox = stage.driver.create(spec).await.unwrap();
        let script = format!("for n in $(seq 1 1000); do head -c 4000000 /dev/zero > {place}/file-$n; done");
        let ended = run(&*sandbox, sh(&script)).await;
        assert_eq!(ended.exit.cause, Cause::DiskLimit, "{place}: {ended:?}");
        sandbox.destroy().await;
    }
    let spec = Spec { limits: limits.clone(), ..stage.spec("one-file") };
    let sandbox = stage.driver.create(spec).await.unwrap();
    let ended = run(&*sandbox, sh("exec head -c 4000000000 /dev/zero > /tmp/large")).await;
    assert_eq!(ended.exit.cause, Cause::DiskLimit, "{ended:?}");
    sandbox.destroy().await;
    let hidden = "import os\nf = [open(f'/tmp/{n}', 'wb') for n in range(100)]\nfor n in range(100): os.unlink(f'/tmp/{n}')\nimport time\nfor g in f:\n    g.write(bytes(4 << 20)); g.flush()\ntime.sleep(100)";
    let sandbox = stage.driver.create(Spec { limits, ..stage.spec("unlinked") }).await.unwrap();
    let ended = run(&*sandbox, program(&["/usr/bin/python3", "-c", hidden])).await;
    assert_eq!(ended.exit.cause, Cause::DiskLimit, "{ended:?}");
    sandbox.destroy().await;
}

pub(crate) async fn programs_in_turn_see_the_same_files(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let write = "echo w > /workspace/file; echo h > ~/file; echo t > /tmp/file";
    assert_eq!(run(&*sandbox, sh(write)).await.exit.code, Some(0));
    let seen = run(&*sandbox, sh("cat /workspace/file ~/file /tmp/file")).await;
    assert_eq!(seen.stdout, "w\nh\nt\n");
    sandbox.destroy().await;
}

pub(crate) async fn scratch_carries_over_to_the_next_sandbox(stage: Stage) {
    let layer = stage.layer("layer", &[("gone", "x"), ("changed", "before")]);
    let first = Spec { layers: vec![layer.clone()], ..stage.spec("kept") };
    let sandbox = stage.driver.create(first.clone()).await.unwrap();
    // Somebody else, so that the next one cannot simply get the same ids.
    let other = stage.sandbox("other").await;
    let script = "rm gone; echo after > changed; mkdir -m 700 sub; echo s > sub/file; echo h > ~/file";
    assert_eq!(run(&*sandbox, sh(script)).await.exit.code, Some(0));
    sandbox.destroy().await;
    let third = stage.sandbox("third").await;
    let again = stage.driver.create(first).await.unwrap();
    let seen = run(&*again, sh("ls; cat changed sub/file ~/file; echo more >> sub/file; touch ~/more")).await;
    assert_eq!(seen.stdout, "changed\nsub\nafter\ns\nh\n", "{seen:?}");
    assert_eq!((seen.exit.code, seen.stderr.as_str()), (Some(0), ""));
    for sandbox in [other, third, again] {
        sandbox.destroy().await;
    }
    assert_eq!(read(&layer.join("changed")), "before");
    assert_eq!(read(&layer.join("gone")), "x");
}

pub(crate) async fn layers_are_stacked_and_never_change(stage: Stage) {
    let low = stage.layer("low", &[("both", "low"), ("only-low", "low"), ("dir/low", "l")]);
    let high = stage.layer("high", &[("both", "high"), ("dir/high", "h")]);
    let spec = Spec { layers: vec![high.clone(), low.clone()], ..stage.spec("one") };
    let sandbox = stage.driver.create(spec.clone()).await.unwrap();
    let seen =
        run(&*sandbox, sh("cat both only-low; ls dir; echo new > both; echo new > dir/low; rm -r dir; echo n > new"))
            .await;
    assert_eq!((seen.stdout.as_str(), seen.exit.code), ("highlowhigh\nlow\n", Some(0)), "{seen:?}");
    sandbox.destroy().await;
    assert_eq!(read(&low.join("both")), "low");
    assert_eq!(read(&low.join("dir/low")), "l");
    assert_eq!(read(&high.join("both")), "high");
    assert_eq!(read(&workspace_of(&spec.scratch).join("new")), "n\n");
}

pub(crate) async fn what_a_sandbox_wrote_can_become_a_layer(stage: Stage) {
    let build = stage.spec("build");
    let sandbox = stage.driver.create(build.clone()).await.unwrap();
    let script = "mkdir -p node_modules/.bin private; echo 'echo tool' > node_modules/.bin/tool; chmod 700 node_modules/.bin/tool private; echo p > private/p; chmod 600 private/p";
    assert_eq!(run(&*sandbox, sh(script)).await.exit.code, Some(0));
    let hold = stage.sandbox("hold").await;
    sandbox.destroy().await;
    let layer = stage.directory("layers").join("built");
    std::fs::rename(workspace_of(&build.scratch), &layer).unwrap();
    backlot_sandbox::process::seal_layer(&layer).unwrap();
    let sandbox = stage.driver.create(Spec { layers: vec![layer], ..stage.spec("use") }).await.unwrap();
    let seen = run(&*sandbox, sh("sh node_modules/.bin/tool; cat private/p; echo more > private/more")).await;
    assert_eq!((seen.stdout.as_str(), seen.exit.code), ("tool\np\n", Some(0)), "{seen:?}");
    sandbox.destroy().await;
    hold.destroy().await;
}

pub(crate) async fn host_paths_are_shown_where_asked_and_read_only(stage: Stage) {
    let shown = stage.layer("shown", &[("file", "shown")]);
    let spec = Spec {
        read_only: vec![
            ReadOnly { host: shown.clone(), inside: PathBuf::from("/opt/tools/deep") },
            ReadOnly { host: shown.join("file"), inside: PathBuf::from("/files/agent/one") },
            ReadOnly { host: shown.clone(), inside: PathBuf::from("/workspace/vendor") },
        ],
        ..stage.spec("one")
    };
    let sandbox = stage.driver.create(spec.clone()).await.unwrap();
    let places = "/opt/tools/deep/file /files/agent/one /workspace/vendor/file";
    let seen = run(
        &*sandbox,
        sh(&format!("cat {places}; for f in {places}; do echo x 2>/dev/null > $f && echo WRITTEN; done")),
    )
    .await;
    assert_eq!(seen.stdout, "shownshownshown", "{seen:?}");
    sandbox.destroy().await;
    assert_eq!(read(&shown.join("file")), "shown");
    for inside in ["/", "relative", "/proc/x", "/etc/passwd", "/opt/../usr", "/dev/x"] {
        let wrong = vec![ReadOnly { host: shown.clone(), inside: PathBuf::from(inside) }];
        assert!(stage.driver.create(Spec { read_only: wrong, ..stage.spec("wrong") }).await.is_err(), "{inside}");
    }
}

pub(crate) async fn sandboxes_in_parallel_are_apart(stage: Stage) {
    let mut all = Vec::new();
    for number in 0..8 {
        all.push((number, stage.sandbox(&format!("number-{number}")).await));
    }
    let runs = all.iter().map(|(number, sandbox)| async move {
        let script = format!("echo {number} > mine; echo {number} > /tmp/mine; sleep 0.1; cat mine /tmp/mine; ls /workspace /tmp; set -- /proc/[0-9]*; echo $#; hostname");
        (number, run(&**sandbox, sh(&script)).await)
    });
    for (number, ended) in futures::future::join_all(runs).await {
        // Its files only, and two processes: the init and the shell.
        let expected = format!("{number}\n{number}\n/tmp:\nmine\n\n/workspace:\nmine\n2\nnumber-{number}\n");
        assert_eq!(ended.stdout, expected, "{ended:?}");
    }
    for (_, sandbox) in all {
        sandbox.destroy().await;
    }
}

pub(crate) async fn the_environment_is_only_what_was_given(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let command = Command { env: vec![("ONLY".into(), "this=that".into())], ..program(&["/usr/bin/env"]) };
    assert_eq!(run(&*sandbox, command).await.stdout, "ONLY=this=that\n");
    let large = "v".repeat(100_000);
    let command = Command { env: vec![("LARGE".into(), large.clone())], ..program(&["/usr/bin/env"]) };
    assert_eq!(run(&*sandbox, command).await.stdout, format!("LARGE={large}\n"));
    sandbox.destroy().await;
}

pub(crate) async fn programs_run_as_the_agent_at_home(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let seen =
        run(&*sandbox, sh("id -u; id -g; id -un; pwd; cd ~; pwd; touch ~/x && stat -c %U ~/x /workspace; ulimit -c"))
            .await;
    assert_eq!(seen.stdout, "1000\n1000\nagent\n/workspace\n/home/agent\nagent\nagent\n0\n", "{seen:?}");
    sandbox.destroy().await;
}

pub(crate) async fn interpreters_start(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    for argv in [
        [
            "/usr/bin/python3",
            "-c",
            "import ssl, json, subprocess, multiprocessing as m; print(sum(m.Pool(2).map(abs, [-1, 2])))",
        ],
        ["node", "-e", "const { Worker } = require('worker_threads'); new Worker('console.log(3)', { eval: true })"],
        ["bash", "-c", "cat <(echo 3)"],
    ] {
        let ended = run(&*sandbox, program(&argv)).await;
        assert_eq!((ended.stdout.as_str(), ended.exit.code), ("3\n", Some(0)), "{argv:?}: {ended:?}");
    }
    sandbox.destroy().await;
}

pub(crate) async fn what_was_used_is_told(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let busy =
        run(&*sandbox, program(&["/usr/bin/python3", "-c", "import time\nwhile time.process_time() < 0.3: pass"]))
            .await;
    if let Some(cpu) = busy.exit.cpu_time {
        assert!(cpu >= Duration::from_millis(300), "{cpu:?}");
    }
    let idle = run(&*sandbox, sh("true")).await;
    if let Some(cpu) = idle.exit.cpu_time {
        assert!(cpu < Duration::from_millis(300), "only what this program took: {cpu:?}");
    }
    sandbox.destroy().await;
}

pub(crate) async fn a_slow_reader_holds_the_program_back_and_the_clock_still_runs(stage: Stage) {
    let sandbox = stage.sandbox("one").await;
    let flood = Command { timeout: Duration::from_millis(500), stdout_limit: u64::MAX, ..program(&["yes"]) };
    let mut execution = sandbox.exec(flood).await.unwrap();
    // Nobody reads until long after the program's time is up.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut bytes = 0;
    while let Some(piece) = execution.output.recv().await {
        let (Output::Stdout(piece) | Output::Stderr(piece)) = piece;
        bytes += piece.len();
    }
    assert_eq!(execution.exit.await.unwrap().cause, Cause::Timeout);
    assert!(bytes < 4 << 20, "{bytes} bytes were held for a reader who did not read");
    sandbox.destroy().await;
}

pub(crate) async fn a_policy_that_cannot_be_meant_is_refused(stage: Stage) {
    let spec = stage.spec("fine");
    let wrong = [
        Spec { id: String::new(), ..spec.clone() },
        Spec { id: "../up".into(), ..spec.clone() },
        Spec { id: "x".repeat(65), ..spec.clone() },
        Spec { scratch: PathBuf::from("/absent/scratch"), ..spec.clone() },
        Spec { scratch: PathBuf::from("relative"), ..spec.clone() },
        Spec { layers: vec![PathBuf::from("/absent/layer")], ..spec.clone() },
        Spec { limits: Limits { memory_bytes: 0, ..Limits::default() }, ..spec.clone() },
        Spec { limits: Limits { processes: 0, ..Limits::default() }, ..spec.clone() },
    ];
    for spec in wrong {
        assert!(stage.driver.create(spec.clone()).await.is_err(), "{spec:?}");
    }
    stage.driver.create(spec).await.unwrap().destroy().await;
}

/// An argument of `sleep` that nobody else uses.
fn mark(what: &str) -> String {
    let number = u64::from(std::process::id()) * 1000 + what.len() as u64;
    format!("3000000.{number}")
}
