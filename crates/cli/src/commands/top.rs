use clap::Args;
use robot_env_diag::Result;

use crate::app::App;
use crate::command_line::Flags;
use crate::verb::{Exit, Verb};

/// Show the processes of a container
#[derive(Args)]
pub(crate) struct Top {
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
    /// Arguments of `ps`
    #[arg(value_name = "PS OPTIONS", num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    arguments: Vec<String>,
}

impl Verb for Top {
    const SPELLINGS: &'static [&'static str] = &["top", "container top"];
    const FLAGS: Flags = Flags::First;

    fn run(self, app: &App) -> Result<Exit> {
        let processes = app.engine()?.top(&self.container, &self.arguments)?;
        let mut lines = vec![processes.titles.clone()];
        lines.extend(processes.rows);
        app.print(&table(&lines))?;
        Ok(Exit::SUCCESS)
    }
}

/// Docker's columns for `top`: at least 20 wide, the last one too.
fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count() + 3).max().unwrap_or(0).max(20)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{}{}", cell, " ".repeat(width - cell.chars().count())));
        }
        // A program's arguments may hold anything.
        out.push_str(robot_env_diag::Escaped(text.trim_end()).to_string().as_str());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_wide() {
        let line = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        let text = table(&[line(["PID", "CMD"]), line(["1234567890123456789", "a\x1b[0m b"])]);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("PID                   CMD"));
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("1234567890123456789   a") && !line.contains('\x1b'))
        );
    }
}
