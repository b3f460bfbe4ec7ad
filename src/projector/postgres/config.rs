//! What the store has to be told, and what the URL says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};

/// How the server is reached, and the bounds.
#[derive(Clone)]
pub struct Config {
    /// `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?OPTIONS]`. Besides the options of the driver it takes `sslmode` with
    /// all words of libpq but `allow`, and `sslrootcert`. May hold a password: never shown.
    pub url: String,
    /// A file with the password in its first line; read for every connection, so that a new one needs no restart.
    pub password_file: Option<PathBuf>,
    /// The password if neither the URL nor the file has one: `PGPASSWORD`.
    pub password: Option<String>,
    /// PEM file of the authorities that may sign the server's certificate. Default: those of the system. `sslrootcert` of
    /// the URL comes first.
    pub root_certificate: Option<PathBuf>,
    /// Until a connection can be used: name look-up, TCP, TLS and login together. Default 5 s: many round trips of a slow
    /// network, and what the first Fetch after an outage waits at most.
    pub connect_timeout: Duration,
    /// For an answer to a Fetch, waiting for a connection included. Default 5 s: below the deadlines of usual clients.
    pub read_timeout: Duration,
    /// For a batch, a schema change, dropping of what expired. Default 30 s: a batch takes some 50 ms; the rest is patience
    /// with checkpoints and locks. A server that stands still is noticed after this long.
    pub write_timeout: Duration,
    /// Connections for reads at once; one more is for writes. Default 8: a cold read waits for the server's disk, and a
    /// server takes 100 connections of all its clients by default.
    pub readers: usize,
}

impl Config {
    /// The defaults with this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password_file: None,
            password: None,
            root_certificate: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            readers: 8,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("password_file", &self.password_file)
            .field("root_certificate", &self.root_certificate)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("readers", &self.readers)
            .finish_non_exhaustive()
    }
}

/// Why a store cannot be made of its settings.
#[derive(Debug, thiserror::Error)]
pub enum PostgresConfigError {
    /// The URL does not read.
    #[error("store.postgres.url {reason}; write it as postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full")]
    Url {
        /// The part that does not, without what may be a password.
        reason: String,
    },
    /// The password cannot be read.
    #[error(
        "read the password for Postgres from {path}: {reason}; make the file readable, with the password in its first line"
    )]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is nothing to check the server's certificate with.
    #[error(
        "read the certificates that Postgres is checked with from {from}: {reason}; set store.postgres.root_certificate to a PEM file"
    )]
    RootCertificate {
        /// The file, or the system's.
        from: String,
        /// Why.
        reason: String,
    },
}

/// How far the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Not at all: against who only listens.
    Nothing,
    /// Who signed it.
    Authority,
    /// That, and that it is for the host of the URL.
    AuthorityAndHost,
}

/// What a URL says.
#[derive(Debug)]
pub(super) struct Target {
    /// As the driver takes it.
    pub(super) driver: tokio_postgres::Config,
    pub(super) check: Check,
    /// `sslrootcert`, unless it is `system`.
    pub(super) root_certificate: Option<PathBuf>,
}

/// How long written bytes may stay unacknowledged before the kernel gives the connection up: a cut cable is noticed, and a
/// server that only stands still, whose kernel acknowledges, is left to the timeouts above.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A silent connection is asked for a sign of life after this long; idle readers notice a server that is gone.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Reads a URL.
pub(super) fn read(url: &str) -> Result<Target, PostgresConfigError> {
    let wrong = |reason: String| PostgresConfigError::Url { reason };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong("does not begin with postgres://".to_owned()));
    }
    let (mut mode, mut root_certificate) = (None, None);
    let kept = without_options(url, |name, value| match name {
        "sslmode" => {
            mode = Some(value);
            true
        }
        "sslrootcert" => {
            root_certificate = Some(value);
            true
        }
        _ => false,
    });
    let mut driver: tokio_postgres::Config =
        kept.parse().map_err(|error| wrong(format!("does not read: {}", super::errors::chain(&error))))?;
    let root_certificate = root_certificate.filter(|path| path != "system").map(PathBuf::from);
    let (mode, check) = match mode.as_deref() {
        Some("disable") => (SslMode::Disable, Check::Nothing),
        None | Some("prefer") => (SslMode::Prefer, Check::Nothing),
        // As libpq does it: a root certificate that is there is used.
        Some("require") if root_certificate.is_some() => (SslMode::Require, Check::Authority),
        Some("require") => (SslMode::Require, Check::Nothing),
        Some("verify-ca") => (SslMode::Require, Check::Authority),
        Some("verify-full") => (SslMode::Require, Check::AuthorityAndHost),
        Some(_) => {
            let words = "disable, prefer, require, verify-ca or verify-full";
            return Err(wrong(format!("has an unknown sslmode: use {words}")));
        }
    };
    if driver.get_hosts().is_empty() {
        return Err(wrong("names no host".to_owned()));
    }
    if driver.get_user().is_none_or(str::is_empty) {
        return Err(wrong("names no user".to_owned()));
    }
    driver.ssl_mode(mode);
    if driver.get_application_name().is_none() {
        driver.application_name("walcast");
    }
    if driver.get_tcp_user_timeout().is_none() {
        driver.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    driver.keepalives_idle(KEEPALIVE_IDLE);
    Ok(Target { driver, check, root_certificate })
}

/// The URL without those of its options that `taken` takes, which gets them decoded.
fn without_options(url: &str, mut taken: impl FnMut(&str, String) -> bool) -> String {
    // A password may hold a `?` that was not escaped; the options come after the host.
    let host = url.rfind('@').unwrap_or(0);
    let Some(question) = url[host..].find('?').map(|at| host + at) else {
        return url.to_owned();
    };
    let kept: Vec<&str> = (url[question + 1..].split('&'))
        .filter(|option| {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            !taken(name, percent_decode_str(value).decode_utf8_lossy().into_owned())
        })
        .collect();
    if kept.is_empty() { url[..question].to_owned() } else { format!("{}?{}", &url[..question], kept.join("&")) }
}

/// Where the URL leads, for people: user, hosts and database, without a password.
pub(super) fn place(driver: &tokio_postgres::Config) -> String {
    let ports = driver.get_ports();
    let hosts = driver.get_hosts().iter().enumerate().map(|(index, host)| {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    });
    let user = driver.get_user().unwrap_or_default();
    let database = driver.get_dbname().unwrap_or(user);
    format!("{user}@{}/{database}", hosts.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_tls_are_those_of_libpq() {
        for (options, mode, check) in [
            ("", SslMode::Prefer, Check::Nothing),
            ("?sslmode=disable", SslMode::Disable, Check::Nothing),
            ("?sslmode=prefer&connect_timeout=3", SslMode::Prefer, Check::Nothing),
            ("?sslmode=require", SslMode::Require, Check::Nothing),
            ("?sslmode=require&sslrootcert=%2Fca.pem", SslMode::Require, Check::Authority),
            ("?sslmode=verify-ca&sslrootcert=system", SslMode::Require, Check::Authority),
            ("?sslrootcert=/ca.pem&sslmode=verify-full", SslMode::Require, Check::AuthorityAndHost),
        ] {
            let target = read(&format!("postgres://u:p@db:5433/w{options}")).expect(options);
            assert_eq!((target.driver.get_ssl_mode(), target.check), (mode, check), "{options}");
            let path = options.contains("ca.pem").then(|| PathBuf::from("/ca.pem"));
            assert_eq!(target.root_certificate, path, "{options}");
            assert_eq!(place(&target.driver), "u@db:5433/w");
        }
    }

    #[test]
    fn a_url_that_does_not_read_says_why_and_shows_no_password() {
        for (url, part) in [
            ("mysql://u:hunter2@db/w", "postgres://"),
            ("host=db password=hunter2", "postgres://"),
            ("postgres://u:hunter2@db/w?sslmode=allow", "verify-full"),
            ("postgres://u:hunter2@db/w?sslcert=x", "sslcert"),
            ("postgres://u:hunter2@/w", "host"),
            ("postgres://db/w", "user"),
        ] {
            let error = read(url).expect_err(url).to_string();
            assert!(error.contains(part) && !error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn options_are_found_behind_odd_passwords_and_the_rest_is_kept() {
        let target = read("postgres://u:a?b%40c@db/w?sslmode=disable&application_name=x").expect("reads");
        assert_eq!(target.driver.get_ssl_mode(), SslMode::Disable);
        assert_eq!(target.driver.get_application_name(), Some("x"));
        assert_eq!(target.driver.get_password(), Some(&b"a?b@c"[..]));
    }
}
