//! A value that must not be shown.

use std::fmt;

/// A connection string or another value that may hold a password. Its `Debug` and `Display` show it without.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

const REDACTED: &str = "[redacted]";

/// What a URL here begins with; anything else before `://` may be a part of a password.
const URL_SCHEMES: [&str; 2] = ["postgres", "postgresql"];

impl Secret {
    /// Takes the text as it was configured.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text with everything in it, to connect with. Never for a log, an error or a screen.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text with its passwords replaced. Of a text that is no URL nothing is shown.
    pub fn redacted(&self) -> String {
        let url = self.0.split_once("://").filter(|(scheme, _)| URL_SCHEMES.contains(scheme));
        let Some((scheme, rest)) = url else {
            return REDACTED.to_owned();
        };
        let (location, query) = match rest.split_once('?') {
            Some((location, query)) => (location, Some(query)),
            None => (rest, None),
        };
        // The last `@` ends the user part: a password may hold one that was not escaped.
        let location = match location.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((name, _)) => format!("{name}:{REDACTED}@{host}"),
                None => format!("{user}@{host}"),
            },
            None => location.to_owned(),
        };
        match query {
            Some(query) => format!("{scheme}://{location}?{}", redacted_query(query)),
            None => format!("{scheme}://{location}"),
        }
    }
}

fn redacted_query(query: &str) -> String {
    let parts = query.split('&').map(|part| match part.split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("pass") => format!("{name}={REDACTED}"),
        // A stray `@` means that the password itself held a `?`.
        _ if part.contains('@') => REDACTED.to_owned(),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("&")
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({})", self.redacted())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_replaced_and_the_rest_is_kept() {
        for (text, shown) in [
            ("postgres://user:hunter2@db:5432/walcast", "postgres://user:[redacted]@db:5432/walcast"),
            ("postgres://user@db/walcast?sslmode=require", "postgres://user@db/walcast?sslmode=require"),
            ("postgres://db/w?user=u&password=hunter2", "postgres://db/w?user=u&password=[redacted]"),
            ("postgres://u:hun@ter2@db/w", "postgres://u:[redacted]@db/w"),
            ("host=db user=u password=hunter2", "[redacted]"),
        ] {
            assert_eq!(Secret::new(text).redacted(), shown);
        }
    }

    #[test]
    fn no_spelling_of_a_password_gets_through() {
        for text in [
            "postgres://u:hunter2@db/w",
            "postgres://u:a?hunter2@db/w",
            "postgres://u:a?b&hunter2@db/w",
            "postgres://u:/hunter2@db/w",
            "postgres://db/w?PASSWORD=hunter2",
            "hunter2",
            "x://hunter2",
        ] {
            let secret = Secret::new(text);
            assert!(!format!("{secret} {secret:?}").contains("hunter2"), "{text}: {secret}");
            assert_eq!(secret.expose(), text);
        }
    }
}
