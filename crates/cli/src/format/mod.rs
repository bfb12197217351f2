//! `--format`: JSON, Go templates, tables.
//!
//! The templates are our own reading of Go's `text/template`, because people script against its
//! details. `gtmpl` was tried first: it prints arrays, maps and missing fields unlike Go, knows no
//! difference between a struct (a wrong field is an error) and a map (a missing key is
//! `<no value>`), and lacks `break`, `else with`, methods with arguments and half of `printf`.
//! Left out: `define`, `template`, `block`, `call`, `js`.

mod evaluator;
mod functions;
pub(crate) mod human;
mod lexer;
mod list;
mod number;
mod parser;
mod printf;
mod serializer;
mod table;
#[cfg(test)]
mod tests;
mod value;

use robot_env_diag::Result;

#[allow(unused_imports, reason = "lists are printed by the commands, which are built next")]
pub(crate) use list::{Column, List, Style};
pub(crate) use table::align;
pub use value::{Field, Value};

use evaluator::Mode;

/// The JSON form as `inspect` prints it: indented by four spaces.
pub(crate) fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Writing to memory cannot fail, and a value has no key that is no text.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&out).into_owned()
}

/// A template that was read.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<parser::Node>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// It is malformed, or names a function that does not exist.
    pub fn parse(text: &str) -> Result<Template> {
        Ok(Template { text: text.to_owned(), nodes: parser::parse(text, &functions::is_function)? })
    }

    /// Prints `value` through the template.
    ///
    /// # Errors
    /// A field that does not exist, or a function that cannot take its arguments.
    pub fn print(&self, value: &Value) -> Result<String> {
        evaluator::run(&self.text, &self.nodes, value, Mode::Row)
    }

    fn print_header(&self, headings: &Value) -> Result<String> {
        evaluator::run(&self.text, &self.nodes, headings, Mode::Header)
    }

    /// Whether the template looks at `name`: what is dear to find out is found out only then.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.text.contains(&format!(".{name}"))
    }
}
