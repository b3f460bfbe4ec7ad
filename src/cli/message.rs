//! How a received message is shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Failure;
use super::arguments::MessageFormat;
use super::output::Output;
use crate::event::UnixMicros;
use crate::proto::client::MessageResponse;

/// A message as JSON: `body_base64` always, `body` where the bytes are UTF-8, `traceparent` where there is one.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    subject: &'a str,
    id: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    traceparent: &'a str,
    body_base64: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
}

/// Writes a message. In the body format, `newline` tells whether one follows the body.
pub fn write(
    output: &mut Output,
    message: &MessageResponse,
    format: MessageFormat,
    newline: bool,
) -> Result<(), Failure> {
    match format {
        MessageFormat::Body => {
            output.bytes(&message.body)?;
            if newline { output.bytes(b"\n") } else { Ok(()) }
        }
        MessageFormat::Json => output.json(&Shown {
            subject: &message.subject,
            id: message.id,
            published_at: message.published_at.as_ref().and_then(time),
            traceparent: &message.traceparent,
            body_base64: STANDARD.encode(&message.body),
            body: std::str::from_utf8(&message.body).ok(),
        }),
    }
}

/// A time as RFC 3339 in UTC; none if it is beyond the calendar.
pub fn rfc3339(time: UnixMicros) -> Option<String> {
    jiff::Timestamp::from_microsecond(time.as_micros()).ok().map(|time| time.to_string())
}

fn time(timestamp: &prost_types::Timestamp) -> Option<String> {
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::Captured;
    use super::*;

    fn shown(body: &'static [u8], format: MessageFormat, newline: bool) -> Vec<u8> {
        shown_with("", body, format, newline)
    }

    fn shown_with(traceparent: &str, body: &'static [u8], format: MessageFormat, newline: bool) -> Vec<u8> {
        let traceparent = traceparent.to_owned();
        let published_at = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 });
        let message =
            MessageResponse { body: body.into(), id: 7, subject: "größe".to_owned(), published_at, traceparent };
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        write(&mut output, &message, format, newline).expect("written");
        output.flush().expect("written");
        captured.bytes()
    }

    #[test]
    fn a_body_is_written_byte_for_byte() {
        assert_eq!(shown(b"\0\xff\n", MessageFormat::Body, false), b"\0\xff\n");
        assert_eq!(shown(b"x", MessageFormat::Body, true), b"x\n");
        assert_eq!(shown(b"", MessageFormat::Body, false), b"");
    }

    #[test]
    fn json_has_the_body_as_base64_and_as_text_where_it_is_text() {
        let text = shown(b"h\"i", MessageFormat::Json, false);
        let expected = concat!(
            r#"{"subject":"größe","id":7,"published_at":"2023-11-14T22:13:20.123456Z","#,
            r#""body_base64":"aCJp","body":"h\"i"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(text).as_deref(), Ok(expected));
        let traced = shown_with("00-ab-cd-01", b"", MessageFormat::Json, false);
        let traced = String::from_utf8(traced).expect("JSON is text");
        assert!(traced.contains(r#""traceparent":"00-ab-cd-01","body_base64":"","#), "{traced}");
        let binary = shown(b"\xff\0", MessageFormat::Json, true);
        let binary = String::from_utf8(binary).expect("JSON is text");
        assert!(binary.ends_with("\"body_base64\":\"/wA=\"}\n"), "{binary}");
    }
}
