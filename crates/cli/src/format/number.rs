//! Numbers as Go's `strconv` prints them.

/// `%v` of a float: the shortest digits that read back, `%e` from 1e21 on and below 1e-4.
pub(crate) fn shortest(n: f64) -> String {
    if n.is_nan() {
        return "NaN".into();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let exponent = exponent_of(&format!("{n:e}"));
    if n != 0.0 && !(-4..21).contains(&exponent) { exponential(&format!("{n:e}")) } else { format!("{n}") }
}

/// `%.Ng`: at most `digits` significant digits, without trailing zeros.
pub(crate) fn significant(n: f64, digits: usize) -> String {
    if n == 0.0 || !n.is_finite() {
        return shortest(n);
    }
    let text = format!("{n:.*e}", digits.saturating_sub(1));
    let exponent = exponent_of(&text);
    if exponent < -4 || exponent >= digits as i32 {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let mantissa = if mantissa.contains('.') {
            mantissa.trim_end_matches('0').trim_end_matches('.')
        } else {
            mantissa
        };
        return exponential(&format!("{mantissa}e{exponent}"));
    }
    let text = format!("{n:.*}", (digits as i32 - 1 - exponent).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn exponent_of(text: &str) -> i32 {
    text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0)
}

/// Rust's `1.5e3` as Go's `1.5e+03`.
pub(crate) fn exponential(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints_them() {
        for (n, want) in [
            (1.0, "1"),
            (0.5, "0.5"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (1e-5, "1e-05"),
            (0.0, "0"),
            (1.5e300, "1.5e+300"),
        ] {
            assert_eq!(shortest(n), want);
        }
        for (n, digits, want) in [
            (72.84, 4, "72.84"),
            (72.849, 3, "72.8"),
            (1.0, 4, "1"),
            (999.96, 4, "1000"),
            (999.96, 3, "1e+03"),
            (0.0, 3, "0"),
            (120.0, 3, "120"),
        ] {
            assert_eq!(significant(n, digits), want, "{n}");
        }
    }
}
