//! Names for containers that nobody named.

const MANNERS: &[&str] = &[
    "agile", "balanced", "bold", "brave", "bright", "busy", "calm", "careful", "clever", "curious", "daring",
    "deft", "eager", "earnest", "elastic", "fearless", "fluent", "focused", "friendly", "gentle", "graceful",
    "handy", "happy", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "merry", "mindful",
    "modest", "neat", "nimble", "patient", "playful", "polite", "precise", "proud", "quick", "quiet",
    "ready", "robust", "serene", "sharp", "smooth", "sober", "stable", "steady", "sunny", "swift", "tender",
    "tidy", "tireless", "upbeat", "vivid", "wise", "witty", "zen",
];

/// People to whom robots owe something.
const PEOPLE: &[&str] = &[
    "al_jazari",
    "archytas",
    "asada",
    "asimov",
    "babbage",
    "bares",
    "bernstein",
    "bohg",
    "breazeal",
    "brooks",
    "burgard",
    "capek",
    "craig",
    "daniilidis",
    "denavit",
    "devol",
    "dickmanns",
    "dijkstra",
    "engelberger",
    "feldman",
    "fong",
    "franklin",
    "gauss",
    "goertz",
    "hamilton",
    "hartenberg",
    "hayati",
    "hirose",
    "hogan",
    "hopper",
    "inaba",
    "ishiguro",
    "jacobi",
    "jaquet_droz",
    "kalman",
    "kato",
    "kavraki",
    "khatib",
    "latombe",
    "lovelace",
    "lozano_perez",
    "lyapunov",
    "makino",
    "mason",
    "matsuoka",
    "mccarthy",
    "minsky",
    "moravec",
    "mori",
    "murphy",
    "nilsson",
    "oriolo",
    "papert",
    "paul",
    "pratt",
    "raibert",
    "rosen",
    "rus",
    "salisbury",
    "scheinman",
    "shannon",
    "siciliano",
    "simon",
    "tesla",
    "thrun",
    "turing",
    "vaucanson",
    "veloso",
    "walter",
    "whitney",
    "wiener",
    "whittaker",
    "yoshikawa",
];

/// A name made of 8 random bytes, with a number behind it when `attempt` names were taken.
pub(crate) fn of(random: [u8; 8], attempt: u32) -> String {
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |n, b| n * 256 + usize::from(*b));
    let manner = MANNERS[number(&random[..3]) % MANNERS.len()];
    let person = PEOPLE[number(&random[3..6]) % PEOPLE.len()];
    match attempt {
        0 => format!("{manner}_{person}"),
        _ => format!("{manner}_{person}{}", number(&random[6..]) % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_valid_one() {
        for manner in MANNERS {
            for person in PEOPLE {
                robot_env_spec::check_name(&format!("{manner}_{person}7")).unwrap();
            }
        }
        assert_eq!(of([0; 8], 0), "agile_al_jazari");
        assert_eq!(of([0, 0, 1, 0, 0, 1, 0, 9], 3), "balanced_archytas9");
    }
}
