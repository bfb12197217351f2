//! Lists: `ps`, `images` and their like, in Docker's formats.

use robot_env_diag::Result;

use super::{Template, Value, align};

/// A column of a list: the field's name in templates and its heading.
pub(crate) type Column = (&'static str, &'static str);

/// How a list is printed.
#[derive(Clone, Debug)]
pub(crate) enum Style {
    /// One JSON object a line.
    Json,
    /// Columns under a line of headings.
    Table(Template),
    /// A line each.
    Lines(Template),
}

impl Style {
    /// Reads `--format`; absent or `table`, it is `default` as a table.
    pub(crate) fn parse(format: Option<&str>, default: &str) -> Result<Style> {
        let format = format.unwrap_or_default();
        if format == "json" {
            return Ok(Style::Json);
        }
        // Docker takes these two escapes in the text itself.
        let template =
            |text: &str| Template::parse(&text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n"));
        match format.strip_prefix("table") {
            Some(rest) if rest.trim().is_empty() => Ok(Style::Table(template(default)?)),
            Some(rest) => Ok(Style::Table(template(rest)?)),
            None if format.is_empty() => Ok(Style::Table(template(default)?)),
            None => Ok(Style::Lines(template(format)?)),
        }
    }

    /// Whether a row's field is looked at.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        match self {
            Style::Json => true,
            Style::Table(template) | Style::Lines(template) => template.mentions(name),
        }
    }
}

/// Rows to print.
pub(crate) struct List<'a> {
    /// Every field that templates may name.
    pub(crate) columns: &'a [Column],
    /// A struct each.
    pub(crate) rows: Vec<Value>,
}

impl List<'_> {
    /// The text to print, with its last newline.
    pub(crate) fn print(&self, style: &Style) -> Result<String> {
        let mut out = String::new();
        let template = match style {
            Style::Json => {
                for row in &self.rows {
                    out.push_str(&sorted(row).to_json());
                    out.push('\n');
                }
                return Ok(out);
            }
            Style::Table(template) => {
                let headings = self.columns.iter().map(|(name, heading)| {
                    let value = if *name == "Label" {
                        Value::Lookup(std::collections::BTreeMap::new())
                    } else {
                        Value::from(*heading)
                    };
                    ((*name).to_owned(), value)
                });
                out.push_str(&template.print_header(&Value::Map(headings.collect()))?);
                out.push('\n');
                template
            }
            Style::Lines(template) => template,
        };
        for row in &self.rows {
            out.push_str(&template.print(row)?);
            out.push('\n');
        }
        Ok(if matches!(style, Style::Table(_)) { align(&out) } else { out })
    }
}

/// Docker prints the JSON of a row with its keys in order.
fn sorted(row: &Value) -> Value {
    match row {
        Value::Struct(fields) => Value::Map(
            fields.iter().filter(|f| f.in_json).map(|f| (f.name.clone(), f.value.clone())).collect(),
        ),
        other => other.clone(),
    }
}
