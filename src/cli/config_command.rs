//! `walcast config`, and the layers that it shares with `serve`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output::Output;
use super::{Exit, Failure};
use crate::cluster::Layout;
use crate::config::{self, Effective, Layers};

#[derive(Debug, Args)]
pub struct ConfigArguments {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each setting, its value and where it came from; passwords are left out
    Print {
        /// One JSON object a setting
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArguments,
    },
    /// Check the configuration and say nothing else
    Check {
        #[command(flatten)]
        settings: SettingsArguments,
    },
}

/// The flags that override settings. What they mean and may be stands in the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArguments {
    /// Settings as a TOML file
    #[arg(long, value_name = "PATH", env = "WALCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where gRPC is served [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where metrics, health and status are served [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// The folder of everything that is kept [default: ./data]
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<String>,
    #[command(flatten)]
    pub store: StoreFlags,
    /// Disk space of the log, beyond which publishes are refused [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub log_max_bytes: Option<String>,
    /// Collector of traces, http://HOST:PORT (OTLP over gRPC) [default: none]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// Which settings and data directory a tool of several commands works with.
#[derive(Debug, Clone, Args)]
pub struct DirectoryArguments {
    /// Settings as a TOML file
    #[arg(long, global = true, value_name = "PATH", env = "WALCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// The broker's folder [default: ./data]
    #[arg(long, global = true, value_name = "PATH")]
    pub data_dir: Option<String>,
}

/// Which store it is, of the broker and of the tools that work with one.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreFlags {
    /// Where the history is kept: embedded, postgres, cassandra or none [default: embedded]
    #[arg(long, global = true, value_name = "KIND")]
    pub store: Option<String>,
    /// Connection URL of Postgres, postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full
    #[arg(long, global = true, value_name = "URL")]
    pub postgres_url: Option<String>,
    /// Contact points of Cassandra or ScyllaDB, separated by commas
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub cassandra_nodes: Option<String>,
}

impl DirectoryArguments {
    /// As flags among those of `serve`.
    pub fn settings(&self, store: &StoreFlags) -> SettingsArguments {
        let (config, data_dir) = (self.config.clone(), self.data_dir.clone());
        SettingsArguments { config, data_dir, store: store.clone(), ..SettingsArguments::default() }
    }
}

impl SettingsArguments {
    /// The configuration of these flags, the environment of this process and the file.
    pub fn load(&self) -> Result<Effective, Failure> {
        self.load_with(environment(std::env::vars_os())?)
    }

    fn load_with(&self, environment: BTreeMap<String, String>) -> Result<Effective, Failure> {
        Ok(config::load(&Layers { file: self.config.clone(), environment, flags: self.flags() })?)
    }

    fn flags(&self) -> Vec<(&'static str, String)> {
        let given = [
            ("listen", &self.listen),
            ("admin_listen", &self.admin_listen),
            ("data_dir", &self.data_dir),
            ("store.kind", &self.store.store),
            ("store.postgres.url", &self.store.postgres_url),
            ("store.cassandra.nodes", &self.store.cassandra_nodes),
            ("log.max_bytes", &self.log_max_bytes),
            ("telemetry.otlp_endpoint", &self.otlp_endpoint),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

/// The variables that concern walcast, as text.
fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut environment = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("WALCAST_")) else { continue };
        let value = value.into_string().map_err(|_| {
            Failure::new(Exit::Usage, format!("the environment variable {name} is not UTF-8; set it anew or unset it"))
        })?;
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// Prints or checks.
pub fn run(arguments: &ConfigArguments, output: &mut Output) -> Result<(), Failure> {
    match &arguments.command {
        ConfigCommand::Print { json, settings } => print(&settings.load()?, *json, output),
        ConfigCommand::Check { settings } => {
            let effective = settings.load()?;
            let cluster = &effective.settings.cluster;
            if cluster.node.is_some() {
                // What the configuration itself does not know: the rules of a layout.
                Layout::new(cluster.version, &cluster.nodes, &cluster.slots)
                    .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
            }
            output.line("the configuration is valid")
        }
    }
}

fn print(effective: &Effective, json: bool, output: &mut Output) -> Result<(), Failure> {
    let entries = effective.entries();
    if json {
        return entries.iter().try_for_each(|entry| output.json(entry));
    }
    let shown = |value: &str| if value.is_empty() { "(none)".to_owned() } else { value.to_owned() };
    let keys = entries.iter().map(|entry| entry.key.len()).max().unwrap_or_default();
    let values = entries.iter().map(|entry| shown(&entry.value).chars().count()).max().unwrap_or_default();
    for entry in &entries {
        let line = format!("{:keys$}  {:values$}  {}", entry.key, shown(&entry.value), entry.origin);
        output.line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::super::output::tests::Captured;
    use super::*;

    fn printed(settings: &SettingsArguments, variables: &[(&str, &str)], json: bool) -> String {
        let environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        print(&settings.load_with(environment).expect("valid"), json, &mut output).expect("written");
        output.flush().expect("written");
        captured.text()
    }

    #[test]
    fn each_setting_is_printed_with_its_origin() {
        let flags = SettingsArguments { data_dir: Some("/d".into()), ..SettingsArguments::default() };
        let text = printed(&flags, &[("WALCAST_LOG__KEEP_FOR", "1h")], false);
        let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(words.contains(&vec!["data_dir", "/d", "flag", "--data-dir"]), "{text}");
        assert!(words.contains(&vec!["log.keep_for", "1h", "env", "WALCAST_LOG__KEEP_FOR"]), "{text}");
        assert!(words.contains(&vec!["store.postgres.url", "(none)", "default"]), "{text}");
    }

    #[test]
    fn json_is_one_object_a_setting_without_passwords() {
        let flags = SettingsArguments {
            store: StoreFlags { postgres_url: Some("postgres://u:hunter2@h/d".into()), ..StoreFlags::default() },
            ..SettingsArguments::default()
        };
        let text = printed(&flags, &[], true);
        assert!(!text.contains("hunter2"), "{text}");
        let line = text.lines().find(|line| line.contains("postgres")).expect("printed");
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let expected = serde_json::json!({
            "key": "store.postgres.url", "value": "postgres://u:[redacted]@h/d", "origin": "flag --postgres-url"
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn every_flag_sets_its_key() {
        let text = || Some("x".to_owned());
        let flags = SettingsArguments {
            config: None,
            listen: text(),
            admin_listen: text(),
            data_dir: text(),
            store: StoreFlags { store: text(), postgres_url: text(), cassandra_nodes: text() },
            log_max_bytes: text(),
            otlp_endpoint: text(),
        };
        assert_eq!(flags.flags().len(), 8);
        let known: Vec<_> = config::load(&Layers::default()).expect("valid").entries();
        assert!(flags.flags().iter().all(|(key, _)| known.iter().any(|entry| entry.key == *key)));
    }

    #[test]
    fn variables_that_are_not_text_are_refused_by_name() {
        let broken = [("WALCAST_DATA_DIR".into(), OsString::from_vec(vec![0xff]))];
        let failure = environment(broken.into_iter()).expect_err("not UTF-8");
        assert!(failure.message().is_some_and(|message| message.contains("WALCAST_DATA_DIR")));
        let foreign = [("OTHER".into(), OsString::from_vec(vec![0xff]))];
        assert_eq!(environment(foreign.into_iter()), Ok(BTreeMap::new()));
    }
}
