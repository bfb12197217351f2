//! Columns: Go's `text/tabwriter` with the widths that Docker gives it.

/// The least width of a column, and the spaces between a cell and the next.
const LEAST: usize = 10;
const PADDING: usize = 3;

/// Aligns the cells of `text`: a tab ends a cell; cells of neighbouring lines that stand in the
/// same column are one block and get one width. The last cell of a line is in no column.
pub(crate) fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut at = 0;
        while at < lines.len() {
            if widths[at].len() <= column {
                at += 1;
                continue;
            }
            let end = (at..lines.len()).find(|line| widths[*line].len() <= column).unwrap_or(lines.len());
            let widest =
                (at..end).map(|line| lines[line][column].chars().count() + PADDING).max().unwrap_or(0);
            for line in &mut widths[at..end] {
                line[column] = widest.max(LEAST);
            }
            at = end;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (number, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if number > 0 {
            out.push('\n');
        }
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        out.push_str(cells.last().unwrap_or(&""));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_as_docker_prints_them() {
        assert_eq!(
            align("REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\na\tlatest\t0123456789ab\t2 days ago\t1.2MB\n"),
            "REPOSITORY   TAG       IMAGE ID       CREATED      SIZE\na            latest    0123456789ab   2 days ago   1.2MB\n"
        );
        assert_eq!(align("a\tb\nno tab\nlonger than ten\tb"), "a         b\nno tab\nlonger than ten   b");
        assert_eq!(align(""), "");
        assert_eq!(align("äöü\tx\n"), "äöü       x\n");
    }
}
