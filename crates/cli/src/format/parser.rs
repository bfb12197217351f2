//! From words to a tree.

use std::collections::VecDeque;

use robot_env_diag::Result;

use super::lexer::{Piece, Token, failure, pieces};

/// A template, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    Break,
    Continue,
}

/// `$x, $y := command | command`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// An argument, or the function at the head of a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
    Group(Pipeline, Vec<String>),
}

/// How deep blocks and parentheses may lie in each other: each level is one of the stack, here and
/// when the template is printed.
const DEPTH_LIMIT: u32 = 200;

struct Parser<'a> {
    template: &'a str,
    pieces: VecDeque<Piece>,
    loops: u32,
    depth: u32,
    is_function: &'a dyn Fn(&str) -> bool,
}

/// How a block ended.
#[derive(PartialEq)]
enum End {
    Template,
    /// `{{end}}`.
    Closed,
    /// `{{else}}` or `{{else if ...}}` with the rest of its words.
    Else(Vec<Token>),
}

/// Reads a template; `is_function` knows the functions.
pub(super) fn parse(template: &str, is_function: &dyn Fn(&str) -> bool) -> Result<Vec<Node>> {
    let mut parser = Parser { template, pieces: pieces(template)?.into(), loops: 0, depth: 0, is_function };
    match parser.block()? {
        (nodes, End::Template) => Ok(nodes),
        (_, End::Closed) => Err(failure(template, "unexpected {{end}}")),
        (_, End::Else(_)) => Err(failure(template, "unexpected {{else}}")),
    }
}

impl Parser<'_> {
    fn block(&mut self) -> Result<(Vec<Node>, End)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let tokens = match piece {
                Piece::Literal(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let rest = tokens.get(1..).unwrap_or_default();
            match tokens.first() {
                Some(Token::Word(word)) if word == "end" && rest.is_empty() => {
                    return Ok((nodes, End::Closed));
                }
                Some(Token::Word(word)) if word == "else" => return Ok((nodes, End::Else(rest.to_vec()))),
                Some(Token::Word(word)) if matches!(word.as_str(), "if" | "with" | "range") => {
                    nodes.push(self.control(word, rest)?);
                }
                Some(Token::Word(word))
                    if matches!(word.as_str(), "break" | "continue") && rest.is_empty() =>
                {
                    if self.loops == 0 {
                        return Err(failure(self.template, &format!("{{{{{word}}}}} outside {{{{range}}}}")));
                    }
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                Some(Token::Word(word)) if matches!(word.as_str(), "define" | "template" | "block") => {
                    return Err(failure(self.template, &format!("{{{{{word}}}}} is not supported")));
                }
                _ => nodes.push(Node::Print(self.pipeline(&tokens)?)),
            }
        }
        Ok((nodes, End::Template))
    }

    fn control(&mut self, word: &str, rest: &[Token]) -> Result<Node> {
        if self.depth == DEPTH_LIMIT {
            return Err(failure(self.template, "blocks are nested too deep"));
        }
        self.depth += 1;
        let node = self.control_within(word, rest);
        self.depth -= 1;
        node
    }

    fn control_within(&mut self, word: &str, rest: &[Token]) -> Result<Node> {
        let head = self.pipeline(rest)?;
        if head.variables.len() == 2 && word != "range" {
            return Err(failure(self.template, &format!("too many declarations in {word}")));
        }
        self.loops += u32::from(word == "range");
        let (then, end) = self.block()?;
        self.loops -= u32::from(word == "range");
        let otherwise = match end {
            End::Closed => Vec::new(),
            End::Template => return Err(failure(self.template, "unexpected EOF: an {{end}} is missing")),
            End::Else(words) => match words.first() {
                None => match self.block()? {
                    (nodes, End::Closed) => nodes,
                    (_, End::Template) => {
                        return Err(failure(self.template, "unexpected EOF: an {{end}} is missing"));
                    }
                    (_, End::Else(_)) => return Err(failure(self.template, "expected end; found {{else}}")),
                },
                // `{{else if}}` shares the {{end}} of the block above.
                Some(Token::Word(next)) if next == word && word != "range" => {
                    vec![self.control(word, &words[1..])?]
                }
                Some(_) => return Err(failure(self.template, "unexpected words behind {{else}}")),
            },
        };
        Ok(match word {
            "if" => Node::If { condition: head, then, otherwise },
            "with" => Node::With { value: head, then, otherwise },
            _ => Node::Range { over: head, body: then, otherwise },
        })
    }

    fn pipeline(&self, tokens: &[Token]) -> Result<Pipeline> {
        let mut depth = 0u32;
        for token in tokens {
            match token {
                Token::Open => depth += 1,
                Token::Close(_) => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_LIMIT {
                return Err(failure(self.template, "max expression depth exceeded"));
            }
        }
        let mut at = 0;
        let pipeline = self.pipeline_at(tokens, &mut at)?;
        if at < tokens.len() {
            return Err(failure(self.template, "unexpected right parenthesis"));
        }
        Ok(pipeline)
    }

    fn pipeline_at(&self, tokens: &[Token], at: &mut usize) -> Result<Pipeline> {
        let fail = |why: &str| Err(failure(self.template, why));
        let mut pipeline = Pipeline::default();
        let variable = |token: Option<&Token>| match token {
            Some(Token::Variable(name, fields)) if fields.is_empty() && !name.is_empty() => {
                Some(name.clone())
            }
            _ => None,
        };
        if let Some(first) = variable(tokens.get(*at)) {
            match tokens.get(*at + 1) {
                Some(sign @ (Token::Declare | Token::Assign)) => {
                    pipeline.variables.push(first);
                    pipeline.declares = *sign == Token::Declare;
                    *at += 2;
                }
                Some(Token::Comma) => {
                    let (Some(second), Some(sign @ (Token::Declare | Token::Assign))) =
                        (variable(tokens.get(*at + 2)), tokens.get(*at + 3))
                    else {
                        return fail("malformed declaration");
                    };
                    pipeline.variables = vec![first, second];
                    pipeline.declares = *sign == Token::Declare;
                    *at += 4;
                }
                _ => {}
            }
        }
        let mut command = Vec::new();
        loop {
            match tokens.get(*at) {
                None | Some(Token::Close(_)) => break,
                Some(Token::Pipe) => {
                    if command.is_empty() {
                        return fail("missing value for command");
                    }
                    pipeline.commands.push(std::mem::take(&mut command));
                    *at += 1;
                    continue;
                }
                Some(Token::Open) => {
                    *at += 1;
                    let inner = self.pipeline_at(tokens, at)?;
                    let Some(Token::Close(fields)) = tokens.get(*at) else {
                        return fail("unclosed left parenthesis");
                    };
                    command.push(Operand::Group(inner, fields.clone()));
                }
                Some(Token::Field(fields)) => command.push(Operand::Field(fields.clone())),
                Some(Token::Variable(name, fields)) => {
                    command.push(Operand::Variable(name.clone(), fields.clone()));
                }
                Some(Token::Text(text)) => command.push(Operand::Text(text.clone())),
                Some(Token::Int(n)) => command.push(Operand::Int(*n)),
                Some(Token::Float(n)) => command.push(Operand::Float(*n)),
                Some(Token::Word(word)) => command.push(match word.as_str() {
                    "true" => Operand::Bool(true),
                    "false" => Operand::Bool(false),
                    "nil" => Operand::Nil,
                    name if (self.is_function)(name) => Operand::Function(name.to_owned()),
                    name => return fail(&format!("function {name:?} not defined")),
                }),
                Some(Token::Declare | Token::Assign | Token::Comma) => {
                    return fail("unexpected sign in command");
                }
            }
            *at += 1;
        }
        if command.is_empty() {
            return fail("missing value for command");
        }
        pipeline.commands.push(command);
        for command in &pipeline.commands[1..] {
            if matches!(
                command[0],
                Operand::Text(_) | Operand::Int(_) | Operand::Float(_) | Operand::Bool(_) | Operand::Nil
            ) {
                return fail("non executable command in pipeline");
            }
        }
        Ok(pipeline)
    }
}
