//! The controls of the fault rigs: loud where they are compiled in, not to be found anywhere else.

use crate::support::Setup;

#[cfg(not(feature = "fault-controls"))]
#[test]
fn an_ordinary_build_has_no_way_to_misbehave() {
    for control in ["skip-fsync", "retry-fsync", "ignore-checksum", "reuse-salt"] {
        let (code, text) = Setup::new().set("fault_control", control).refuse();
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("WALCAST_FAULT_CONTROL"), "the variable is refused by its name: {text}");
    }
    let (code, text) = Setup::new().set("crash_point", "read:1").refuse();
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("WALCAST_CRASH_POINT"), "the variable is refused by its name: {text}");
    let binary = std::fs::read(env!("CARGO_BIN_EXE_walcast")).expect("the binary can be read");
    let has = |text: &str| memchr::memmem::find(&binary, text.as_bytes()).is_some();
    assert!(has("--data-dir") || has("WALCAST_"), "texts of the program are found in it");
    for trace in [
        "WALCAST_FAULT_CONTROL",
        "skip-fsync",
        "LOSES DATA ON PURPOSE",
        "fault_controls",
        "WALCAST_CRASH_POINT",
        "DIES ON PURPOSE",
        "crash_points",
    ] {
        assert!(!has(trace), "{trace:?} is in the binary");
    }
}

#[cfg(feature = "fault-controls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_control_says_so_and_one_that_does_not_exist_is_refused() {
    for control in ["skip-fsync", "retry-fsync", "ignore-checksum", "reuse-salt"] {
        let setup = Setup::new().set("fault_control", control).expect_log("LOSES DATA ON PURPOSE");
        let broker = setup.start().await;
        broker.client().await.publish_kept("s", control).await;
        let line = broker.logged("LOSES DATA ON PURPOSE");
        assert!(line.contains("WARN") && line.contains(control), "{line}");
        broker.stop().await;
    }
    let (code, text) = Setup::new().set("fault_control", "skip-fsyncs").refuse();
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("skip-fsyncs") && text.contains("reuse-salt"), "the choice is named: {text}");
}

#[cfg(feature = "fault-controls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_point_ends_the_process_and_one_that_does_not_exist_is_refused() {
    use std::os::unix::process::ExitStatusExt as _;

    for point in ["read", "committed", "saved"] {
        let setup = Setup::new().set("crash_point", &format!("{point}:2")).expect_log("DIES ON PURPOSE");
        let broker = setup.start().await;
        let client = broker.client().await;
        while client.publish("s", point, 3_600).await.is_ok() {}
        let (status, _) = broker.wait().await;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
    }
    for wrong in ["reads:1", "read", "read:x"] {
        let (code, text) = Setup::new().set("crash_point", wrong).refuse();
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(wrong) && text.contains("trimmed"), "the choice is named: {text}");
    }
}
