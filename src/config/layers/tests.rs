use std::time::Duration;

use super::*;
use crate::config::StoreKind;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn with_environment(pairs: &[(&str, &str)]) -> Result<Effective, ConfigError> {
    load(&Layers { environment: environment(pairs), ..Layers::default() })
}

fn with_file(text: &str) -> Result<Effective, String> {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("walcast.toml");
    std::fs::write(&path, text).expect("writes the file");
    let place = path.display().to_string();
    load(&Layers { file: Some(path), ..Layers::default() })
        .map_err(|error| error.to_string().replace(&place, "walcast.toml"))
}

fn message(result: Result<Effective, impl ToString>) -> String {
    result.err().map(|error| error.to_string()).expect("refused")
}

fn origin(effective: &Effective, key: &str) -> (String, String) {
    let entry = effective.entries().into_iter().find(|entry| entry.key == key).expect("a known key");
    (entry.value, entry.origin)
}

#[test]
fn nothing_given_means_the_defaults() {
    let effective = load(&Layers::default()).expect("valid");
    assert_eq!(effective.settings, Settings::default());
    assert!(effective.entries().iter().all(|entry| entry.origin == "default"));
    effective.settings.validate().expect("valid");
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("walcast.toml");
    let text = "listen = '127.0.0.1:1'\nadmin_listen = '127.0.0.1:2'\ndata_dir = '/a'\n[log]\nkeep_for = '7d'\n";
    std::fs::write(&path, text).expect("writes the file");
    let layers = Layers {
        file: Some(path.clone()),
        environment: environment(&[
            ("WALCAST_ADMIN_LISTEN", "127.0.0.1:3"),
            ("WALCAST_DATA_DIR", "/b"),
            ("WALCAST_SERVER", "http://elsewhere"),
            ("WALCAST_ADMIN", "http://elsewhere"),
            ("WALCAST_CONFIG", "/not/read/here"),
            ("PATH", "/bin"),
        ]),
        flags: vec![("data_dir", "/c".to_owned())],
    };
    let effective = load(&layers).expect("valid");
    let file = format!("file {}", path.display());
    assert_eq!(origin(&effective, "listen"), ("127.0.0.1:1".into(), file.clone()));
    assert_eq!(origin(&effective, "admin_listen"), ("127.0.0.1:3".into(), "env WALCAST_ADMIN_LISTEN".into()));
    assert_eq!(origin(&effective, "data_dir"), ("/c".into(), "flag --data-dir".into()));
    assert_eq!(origin(&effective, "log.keep_for"), ("7days".into(), file));
    assert_eq!(origin(&effective, "log.segment_bytes"), ("64MiB".into(), "default".into()));
    assert_eq!(effective.settings.log.keep_for, Duration::from_secs(7 * 86_400));
    assert_eq!(effective.settings.log_dir(), PathBuf::from("/c/log"));
}

#[test]
fn values_of_the_file_may_be_text_numbers_or_lists() {
    let effective = with_file(
        "[log]\nsegment_bytes = 33554432\n[store]\nkind = 'none'\n[store.cassandra]\nnodes = ['a:9042', 'b:9042']\n\
         [telemetry]\nsample_ratio = 0.5\n[limits]\n",
    )
    .expect("valid");
    assert_eq!(effective.settings.log.segment_bytes, 32 << 20);
    assert_eq!(effective.settings.store.kind, StoreKind::None);
    assert_eq!(effective.settings.store.cassandra.nodes, ["a:9042", "b:9042"]);
    assert_eq!(effective.settings.telemetry.sample_ratio, 0.5);
}

#[test]
fn unknown_keys_get_the_nearest_name() {
    assert_eq!(
        message(with_file("[log]\nsegment_byte = '1MiB'\n")),
        "unknown setting log.segment_byte (file walcast.toml); did you mean log.segment_bytes?"
    );
    assert_eq!(
        message(with_file("segment_bytes = '1MiB'\n")),
        "unknown setting segment_bytes (file walcast.toml); did you mean log.segment_bytes?"
    );
    assert_eq!(
        message(with_file("Listen = '1'\n")),
        "unknown setting Listen (file walcast.toml); did you mean listen?"
    );
    assert_eq!(
        message(with_file("zzzzzz = 1\n")),
        "unknown setting zzzzzz (file walcast.toml); `walcast config print` lists all settings"
    );
    assert!(message(with_file("shutdown = '3s'\n")).ends_with("it is a section with the keys shutdown.grace"));
    assert_eq!(
        message(with_environment(&[("WALCAST_LOG_SEGMENT_BYTES", "1MiB")])),
        "unknown setting WALCAST_LOG_SEGMENT_BYTES (environment); did you mean WALCAST_LOG__SEGMENT_BYTES?"
    );
    assert!(message(with_environment(&[("WALCAST_SEVER", "x")])).starts_with("unknown setting WALCAST_SEVER"));
}

#[test]
fn the_addresses_that_kubernetes_puts_into_the_environment_are_no_settings() {
    let links = [
        ("WALCAST_SERVICE_HOST", "10.96.0.12"),
        ("WALCAST_SERVICE_PORT", "50051"),
        ("WALCAST_SERVICE_PORT_GRPC", "50051"),
        ("WALCAST_PORT", "tcp://10.96.0.12:50051"),
        ("WALCAST_PORT_50051_TCP", "tcp://10.96.0.12:50051"),
        ("WALCAST_PORT_50051_TCP_PROTO", "tcp"),
        ("WALCAST_PORT_50051_TCP_PORT", "50051"),
        ("WALCAST_HEADLESS_PORT_50051_TCP_ADDR", "10.96.0.12"),
    ];
    let effective = with_environment(&links).expect("they are passed over");
    assert_eq!(effective.settings, Settings::default());
    for (variable, value) in [("WALCAST_PORT", "50051"), ("WALCAST_SERVICE_PORT", "x"), ("WALCAST_PORT_A_TCP", "1")] {
        assert!(message(with_environment(&[(variable, value)])).starts_with("unknown setting"), "{variable}");
    }
}

#[test]
fn an_unknown_key_is_not_hidden_by_a_later_layer() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("walcast.toml");
    std::fs::write(&path, "log = 'x'\n").expect("writes the file");
    let layers =
        Layers { file: Some(path), environment: environment(&[("WALCAST_LOG__KEEP_BYTES", "0")]), ..Layers::default() };
    assert!(message(load(&layers)).starts_with("unknown setting log ("));
}

#[test]
fn refusals_name_key_value_origin_and_bound() {
    for (variable, value, expected) in [
        (
            "WALCAST_LOG__SEGMENT_BYTES",
            "1KiB",
            "log.segment_bytes = 1KiB (env WALCAST_LOG__SEGMENT_BYTES) is below the least value 64KiB",
        ),
        (
            "WALCAST_LIMITS__BODY_BYTES",
            "17MiB",
            "limits.body_bytes = 17MiB (env WALCAST_LIMITS__BODY_BYTES) is above the greatest value 16MiB",
        ),
        (
            "WALCAST_SHUTDOWN__GRACE",
            "soon",
            "shutdown.grace = soon (env WALCAST_SHUTDOWN__GRACE) is not a duration such as 2ms, 30s or 7d",
        ),
        (
            "WALCAST_LISTEN",
            "localhost",
            "listen = localhost (env WALCAST_LISTEN) is not an IP address with a port such as 127.0.0.1:50051 or \
             0.0.0.0:50051",
        ),
        (
            "WALCAST_STORE__KIND",
            "sqlite",
            "store.kind = sqlite (env WALCAST_STORE__KIND) is not a kind of store: use embedded, postgres, cassandra or none",
        ),
        (
            "WALCAST_TELEMETRY__OTLP_ENDPOINT",
            "otel:4317",
            "telemetry.otlp_endpoint = otel:4317 (env WALCAST_TELEMETRY__OTLP_ENDPOINT) is not a collector such as \
             http://127.0.0.1:4317 (OTLP over gRPC)",
        ),
        (
            "WALCAST_TELEMETRY__OTLP_ENDPOINT",
            "https://otel:4317",
            "telemetry.otlp_endpoint = https://otel:4317 (env WALCAST_TELEMETRY__OTLP_ENDPOINT) begins with https, and \
             TLS is not spoken here: use a collector on this machine",
        ),
        (
            "WALCAST_TELEMETRY__LOG_FILTER",
            "info,=,",
            "telemetry.log_filter = info,=, (env WALCAST_TELEMETRY__LOG_FILTER) is not a log filter such as info or \
             info,walcast::wal=debug",
        ),
    ] {
        assert_eq!(message(with_environment(&[(variable, value)])), expected);
    }
    assert!(message(with_file("listen = ['a', 'b']\n")).contains("is a list; a single value is needed"));
}

#[test]
fn conflicts_name_both_keys_and_their_origins() {
    assert_eq!(
        message(with_environment(&[("WALCAST_LOG__MAX_BYTES", "100MiB")])),
        "log.max_bytes = 100MiB (env WALCAST_LOG__MAX_BYTES) does not fit log.segment_bytes = 64MiB (default): the \
         log needs room for 2 segments, 128MiB"
    );
}

#[test]
fn files_that_cannot_be_read_or_parsed_are_named() {
    let layers = Layers { file: Some("/nowhere/walcast.toml".into()), ..Layers::default() };
    assert_eq!(
        message(load(&layers)),
        "cannot read the configuration file /nowhere/walcast.toml: No such file or directory (os error 2)"
    );
    let broken = message(with_file("listen = \n"));
    assert!(broken.starts_with("the configuration file walcast.toml is not valid TOML: "), "{broken}");
    assert!(broken.contains("line 1") && !broken.contains('\n'), "{broken}");
}

#[test]
fn passwords_are_kept_and_never_shown() {
    let effective = with_environment(&[("WALCAST_STORE__POSTGRES__URL", "postgres://u:hunter2@db/w")]).expect("valid");
    let url = effective.settings.store.postgres.url.as_ref().expect("set");
    assert_eq!(url.expose(), "postgres://u:hunter2@db/w");
    assert_eq!(origin(&effective, "store.postgres.url").0, "postgres://u:[redacted]@db/w");
    let shown = format!("{effective:?} {:?}", effective.settings.entries());
    assert!(!shown.contains("hunter2"), "{shown}");
    effective.settings.validate().expect("valid");
}

#[test]
fn validation_finds_what_was_set_by_hand() {
    let mut settings = Settings::default();
    settings.limits.in_flight_publishes = 1;
    assert!(settings.validate().is_err_and(|error| error.to_string().contains("32768")));
    let mut settings = Settings::default();
    settings.log.max_bytes = 64 << 20;
    assert!(settings.validate().is_err_and(|error| error.to_string().contains("2 segments")));
}
