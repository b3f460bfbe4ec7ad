//! The id of its trace on a line that is written while a traced call is worked on.

use std::fmt::{self, Display, Write as _};

/// Adds the id to a whole line.
pub(super) type AddTraceId = fn(&mut String, &dyn Display) -> fmt::Result;

/// As the last field of an object.
pub(super) fn to_json(line: &mut String, id: &dyn Display) -> fmt::Result {
    let Some(object) = line.trim_end().strip_suffix('}') else { return Ok(()) };
    line.truncate(object.len());
    writeln!(line, r#","trace_id":"{id}"}}"#)
}

/// Behind the others.
pub(super) fn to_text(line: &mut String, id: &dyn Display) -> fmt::Result {
    if line.ends_with('\n') {
        line.pop();
    }
    writeln!(line, " trace_id={id}")
}
