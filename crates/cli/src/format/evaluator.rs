//! Runs a template's tree over a value.

use robot_env_diag::{Error, Result};

use super::functions;
use super::parser::{Node, Operand, Pipeline};
use super::value::Value;

/// Bytes after which a template that prints without end is stopped.
const OUTPUT_LIMIT: usize = 256 << 20;

/// Whether rows or the line above them are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Row,
    /// Functions that change texts leave the headings alone.
    Header,
}

enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'a> {
    template: &'a str,
    mode: Mode,
    root: &'a Value,
    variables: Vec<(String, Value)>,
    out: String,
}

/// Runs `nodes` over `root`.
pub(super) fn run(template: &str, nodes: &[Node], root: &Value, mode: Mode) -> Result<String> {
    let mut run = Run { template, mode, root, variables: Vec::new(), out: String::new() };
    run.block(nodes, root)?;
    Ok(run.out)
}

impl Run<'_> {
    fn fail<T>(&self, why: impl AsRef<str>) -> Result<T> {
        Err(self.failure(why))
    }

    fn failure(&self, why: impl AsRef<str>) -> Error {
        Error::invalid(format!("cannot print with template `{}`: {}", self.template, why.as_ref()))
    }

    fn block(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow> {
        let scope = self.variables.len();
        for node in nodes {
            match self.node(node, dot)? {
                Flow::Next => {}
                flow => {
                    self.variables.truncate(scope);
                    return Ok(flow);
                }
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    value.print(&mut self.out);
                }
            }
            Node::If { condition: head, then, otherwise } | Node::With { value: head, then, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipeline(head, dot)?;
                let inner = if matches!(node, Node::With { .. }) { &value } else { dot };
                let flow =
                    if value.is_true() { self.block(then, inner)? } else { self.block(otherwise, dot)? };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range { over, body, otherwise } => return self.range(over, body, otherwise, dot),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        if self.out.len() > OUTPUT_LIMIT {
            return self.fail("it prints more than 256 MiB");
        }
        Ok(Flow::Next)
    }

    fn range(&mut self, over: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow> {
        let scope = self.variables.len();
        // The variables of a range are its own, set anew for each item.
        let bare = Pipeline { variables: Vec::new(), declares: false, commands: over.commands.clone() };
        let items: Vec<(Value, Value)> = match self.pipeline(&bare, dot)? {
            Value::List(items) => {
                items.into_iter().enumerate().map(|(at, item)| (Value::Int(at as i64), item)).collect()
            }
            Value::Map(map) => map.into_iter().map(|(key, value)| (Value::Text(key), value)).collect(),
            Value::Int(n) => (0..n.clamp(0, 1_000_000)).map(|n| (Value::Int(n), Value::Int(n))).collect(),
            Value::Nil | Value::Missing => Vec::new(),
            Value::Text(_) | Value::Bool(_) | Value::Float(_) | Value::Struct(_) | Value::Lookup(_) => {
                return self.fail("range can't iterate over this value");
            }
        };
        if items.is_empty() {
            return self.block(otherwise, dot);
        }
        for (key, item) in items {
            match over.variables.as_slice() {
                [only] => self.set(only, item.clone(), over.declares)?,
                [first, second] => {
                    self.set(first, key, over.declares)?;
                    self.set(second, item.clone(), over.declares)?;
                }
                _ => {}
            }
            let flow = self.block(body, &item)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) -> Result<()> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, slot)) => {
                *slot = value;
                Ok(())
            }
            None => self.fail(format!("undefined variable: ${name}")),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        let value = last.unwrap_or(Value::Nil);
        if let [name] = pipeline.variables.as_slice() {
            self.set(name, value.clone(), pipeline.declares)?;
        }
        Ok(value)
    }

    fn command(&mut self, command: &[Operand], dot: &Value, piped: Option<Value>) -> Result<Value> {
        let (head, rest) = command.split_first().ok_or_else(|| self.failure("it has an empty command"))?;
        if let Operand::Function(name) = head {
            // `and` and `or` stop at the first argument that decides.
            if matches!(name.as_str(), "and" | "or") {
                let mut value = Value::Nil;
                for operand in rest {
                    value = self.operand(operand, dot)?;
                    if value.is_true() == (name == "or") {
                        return Ok(value);
                    }
                }
                return match piped {
                    Some(piped) => Ok(piped),
                    None if rest.is_empty() => self.fail(format!("wrong number of args for {name}")),
                    None => Ok(value),
                };
            }
            let mut arguments =
                rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>>>()?;
            arguments.extend(piped);
            if self.mode == Mode::Header
                && matches!(
                    name.as_str(),
                    "json" | "title" | "lower" | "upper" | "truncate" | "join" | "split" | "pad"
                )
            {
                return Ok(arguments.into_iter().next().unwrap_or(Value::Nil));
            }
            return functions::call(name, arguments)
                .map_err(|why| self.failure(format!("error calling {name}: {why}")));
        }
        let value = self.operand(head, dot)?;
        let mut arguments =
            rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>>>()?;
        arguments.extend(piped);
        match (value, arguments.as_slice()) {
            (Value::Lookup(map), [Value::Text(key)]) => Ok(Value::Text(match self.mode {
                Mode::Row => map.get(key).cloned().unwrap_or_default(),
                Mode::Header => key.rsplit('.').next().unwrap_or(key).replace(['-', '_'], " "),
            })),
            (value, []) => Ok(value),
            _ => self.fail("only functions and methods take arguments"),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value> {
        match operand {
            Operand::Field(names) => self.chain(dot, names),
            Operand::Variable(name, names) => {
                if name.is_empty() {
                    return self.chain(self.root, names);
                }
                let Some(value) = self
                    .variables
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
                else {
                    return self.fail(format!("undefined variable: ${name}"));
                };
                self.chain(&value, names)
            }
            Operand::Function(name) => functions::call(name, Vec::new())
                .map_err(|why| self.failure(format!("error calling {name}: {why}"))),
            Operand::Text(text) => Ok(Value::Text(text.clone())),
            Operand::Int(n) => Ok(Value::Int(*n)),
            Operand::Float(n) => Ok(Value::Float(*n)),
            Operand::Bool(b) => Ok(Value::Bool(*b)),
            Operand::Nil => Ok(Value::Nil),
            Operand::Group(pipeline, names) => {
                let scope = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                self.variables.truncate(scope);
                self.chain(&value, names)
            }
        }
    }

    fn chain(&self, start: &Value, names: &[String]) -> Result<Value> {
        let mut value = start;
        for (at, name) in names.iter().enumerate() {
            let path = || format!("<.{}>", names[..=at].join("."));
            value = match (value.field(name), value) {
                (Some(found), _) => found,
                (None, Value::Nil | Value::Missing) => {
                    return self.fail(format!("nil pointer evaluating {}", path()));
                }
                (None, Value::Struct(fields)) => {
                    let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                    return Err(self
                        .failure(format!(
                            "map has no entry for key {name:?}: can't evaluate field {name} at {}",
                            path()
                        ))
                        .with_hint(format!("the fields here are {}", known.join(", "))));
                }
                (None, _) => {
                    return self.fail(format!("can't evaluate field {name} at {}: it has no fields", path()));
                }
            };
        }
        Ok(value.clone())
    }
}
