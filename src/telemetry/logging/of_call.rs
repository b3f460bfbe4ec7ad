//! The id of its trace on a line that is written while a traced call is worked on.

use std::fmt::{self, Display, Write as _};

use super::one_line::Form;

/// Adds the id to a whole line: as the last field of an object, or behind the others.
pub(super) fn add_trace_id(form: Form, line: &mut String, id: &dyn Display) -> fmt::Result {
    match form {
        Form::Json => {
            let Some(object) = line.trim_end().strip_suffix('}') else { return Ok(()) };
            line.truncate(object.len());
            writeln!(line, r#","trace_id":"{id}"}}"#)
        }
        Form::Plain | Form::Coloured => {
            if line.ends_with('\n') {
                line.pop();
            }
            writeln!(line, " trace_id={id}")
        }
    }
}
