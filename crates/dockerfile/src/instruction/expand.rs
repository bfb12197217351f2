//! Instructions with their variables put in.

use std::collections::BTreeSet;

use super::*;
use crate::lex::{Expanded, Lexer, Variables};
use crate::span::Fault;

/// What became of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The instruction, quotes and escapes gone, variables put in.
    pub instruction: Instruction,
    /// Names of variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
}

struct Run<'a> {
    lexer: Lexer,
    variables: &'a dyn Variables,
    unset: BTreeSet<String>,
}

impl Run<'_> {
    fn expand(&mut self, lexer: Lexer, text: &str, span: Span) -> Result<Expanded, Fault> {
        let mut all = lexer.expand(text, self.variables).map_err(|why| Fault::new(why, span))?;
        self.unset.append(&mut all.unmatched);
        Ok(all)
    }

    fn text(&mut self, text: &str, span: Span) -> Result<String, Fault> {
        Ok(self.expand(self.lexer, text, span)?.text)
    }

    fn word(&mut self, word: &Word) -> Result<Word, Fault> {
        Ok(Word { text: self.text(&word.text, word.span)?, span: word.span })
    }

    /// One that comes out empty counts as none.
    fn flag(&mut self, word: Option<&Word>) -> Result<Option<Word>, Fault> {
        let word = word.map(|word| self.word(word)).transpose()?;
        Ok(word.filter(|word| !word.text.is_empty()))
    }

    fn words(&mut self, words: &[Word]) -> Result<Vec<Word>, Fault> {
        words.iter().map(|word| self.word(word)).collect()
    }

    fn pairs(&mut self, pairs: &[Pair]) -> Result<Vec<Pair>, Fault> {
        let expand = |pair: &Pair| {
            Ok(Pair {
                key: self.text(&pair.key, pair.span)?,
                value: self.text(&pair.value, pair.span)?,
                ..pair.clone()
            })
        };
        pairs.iter().map(expand).collect()
    }

    fn placement(&mut self, placement: &Placement) -> Result<Placement, Fault> {
        let mut documents = placement.documents.clone();
        for document in documents.iter_mut().filter(|document| document.expand) {
            document.content = self.expand(Lexer::of_heredocs(), &document.content, document.span)?.text;
        }
        Ok(Placement {
            sources: self.words(&placement.sources)?,
            documents,
            destination: self.word(&placement.destination)?,
            chown: self.flag(placement.chown.as_ref())?,
            chmod: self.flag(placement.chmod.as_ref())?,
            link: placement.link,
            excludes: placement.excludes.clone(),
        })
    }
}

impl Instruction {
    /// Puts variables in, in those parts where Docker does. `ARG` stays as it is: see
    /// [`crate::Scope::declare`]; so does `RUN`, whose mounts are checked: see [`super::Run::mounts`].
    ///
    /// Errors: a quote or brace that is not closed, `${x:?}` of an `x` that is not set, a mount that
    /// is none.
    pub fn expand(&self, escape: char, variables: &dyn Variables) -> Result<Expansion, Fault> {
        let mut run = Run { lexer: Lexer::new(escape), variables, unset: BTreeSet::new() };
        let instruction = match self {
            Instruction::Add(add) => Instruction::Add(Add {
                placement: run.placement(&add.placement)?,
                checksum: run.flag(add.checksum.as_ref())?,
                ..add.clone()
            }),
            Instruction::Copy(copy) => {
                Instruction::Copy(Copy { placement: run.placement(&copy.placement)?, ..copy.clone() })
            }
            Instruction::Env(pairs) => Instruction::Env(run.pairs(pairs)?),
            Instruction::Label(pairs) => Instruction::Label(run.pairs(pairs)?),
            Instruction::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    let all = run.expand(run.lexer, &word.text, word.span)?;
                    ports.extend(all.words.into_iter().map(|text| Word { text, span: word.span }));
                }
                Instruction::Expose(ports)
            }
            Instruction::Stopsignal(word) => Instruction::Stopsignal(run.word(word)?),
            Instruction::User(word) => Instruction::User(run.word(word)?),
            Instruction::Volume(words) => Instruction::Volume(run.words(words)?),
            Instruction::Workdir(word) => Instruction::Workdir(run.word(word)?),
            Instruction::Run(step) => {
                run.unset = step.mounts(escape, variables)?.1;
                self.clone()
            }
            Instruction::Arg(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Healthcheck(_)
            | Instruction::Maintainer(_)
            | Instruction::Onbuild(_)
            | Instruction::Shell(_) => self.clone(),
        };
        Ok(Expansion { instruction, unset: run.unset })
    }
}
