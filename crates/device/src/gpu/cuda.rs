//! Which CUDA a driver runs (CUDA toolkit release notes, table 3).

use std::cmp::Ordering;
use std::fmt;

/// A version of numbers with dots; missing parts count as 0. It is shown as it was written: NVIDIA's
/// drivers are named `580.65.06`.
#[derive(Clone, Debug, Default)]
pub struct Version {
    numbers: Vec<u32>,
    text: String,
}

impl Version {
    /// Reads `550.54.15`; `None` where a part is no number.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let numbers = text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()?;
        Some(Version { numbers, text: text.to_owned() })
    }

    /// The first number.
    pub fn major(&self) -> u32 {
        self.numbers.first().copied().unwrap_or(0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let length = self.numbers.len().max(other.numbers.len());
        let part = |version: &Version, at: usize| version.numbers.get(at).copied().unwrap_or(0);
        (0..length)
            .map(|at| part(self, at).cmp(&part(other, at)))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

/// CUDA versions and the oldest Linux driver that each was made for, the oldest first.
const TABLE: [(&str, &str); 30] = [
    ("8.0", "375.26"),
    ("9.0", "384.81"),
    ("9.1", "390.46"),
    ("9.2", "396.26"),
    ("10.0", "410.48"),
    ("10.1", "418.39"),
    ("10.2", "440.33"),
    ("11.0", "450.51.05"),
    ("11.1", "455.23"),
    ("11.2", "460.27.03"),
    ("11.3", "465.19.01"),
    ("11.4", "470.42.01"),
    ("11.5", "495.29.05"),
    ("11.6", "510.39.01"),
    ("11.7", "515.43.04"),
    ("11.8", "520.61.05"),
    ("12.0", "525.60.13"),
    ("12.1", "530.30.02"),
    ("12.2", "535.54.03"),
    ("12.3", "545.23.06"),
    ("12.4", "550.54.14"),
    ("12.5", "555.42.02"),
    ("12.6", "560.28.03"),
    // 12.7 came with no toolkit of its own.
    ("12.7", "565.57.01"),
    ("12.8", "570.26"),
    ("12.9", "575.51.03"),
    ("13.0", "580.65.06"),
    ("13.1", "590.44.01"),
    ("13.2", "595.45.04"),
    ("8.0.44", "367.48"),
];

/// Within a major version every toolkit runs from this driver on, less what is new in it.
const FLOORS: [(u32, &str); 3] = [(11, "450.80.02"), (12, "525"), (13, "580")];

fn rows() -> impl Iterator<Item = (Version, Version)> {
    TABLE.into_iter().filter_map(|(cuda, driver)| Some((Version::parse(cuda)?, Version::parse(driver)?)))
}

/// The newest CUDA that a driver was made for.
pub fn of_driver(driver: &Version) -> Option<Version> {
    rows().filter(|(_, oldest)| oldest <= driver).map(|(cuda, _)| cuda).max()
}

/// The oldest driver that a CUDA version was made for.
pub fn driver_for(cuda: &Version) -> Option<Version> {
    let wanted = Version { numbers: cuda.numbers.iter().copied().take(2).collect(), ..Version::default() };
    rows().find(|(row, _)| *row == wanted).map(|(_, driver)| driver)
}

/// Whether a driver runs programs of this CUDA at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It was made for it.
    Good,
    /// It runs it, less the features that came later: the driver to install for all of them.
    Limited(Version),
    /// It does not: the driver to install.
    Unfit(Version),
}

/// How a driver fits an image's `CUDA_VERSION`.
pub fn fit(cuda: &Version, driver: &Version) -> Fit {
    let Some(made_for) = driver_for(cuda) else { return Fit::Good };
    if *driver >= made_for {
        return Fit::Good;
    }
    let floor =
        FLOORS.into_iter().find(|(major, _)| *major == cuda.major()).and_then(|(_, d)| Version::parse(d));
    match floor {
        Some(floor) if *driver >= floor => Fit::Limited(made_for),
        _ => Fit::Unfit(made_for),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn drivers_and_images() {
        for (cuda, driver, want) in [
            ("12.2.0", "535.54.03", "good"),
            ("12.2.0", "550.1", "good"),
            ("12.8", "535.54", "limited 570.26"),
            ("12.8", "470.42.01", "unfit 570.26"),
            ("11.8.0", "450.80.02", "limited 520.61.05"),
            ("11.8.0", "450.51.05", "unfit 520.61.05"),
            ("10.0.130", "410.47", "unfit 410.48"),
            ("10.0.130", "410.48", "good"),
            ("13.0", "575.1", "unfit 580.65.06"),
            ("99.0", "100", "good"),
        ] {
            let said = match fit(&version(cuda), &version(driver)) {
                Fit::Good => "good".to_owned(),
                Fit::Limited(driver) => format!("limited {driver}"),
                Fit::Unfit(driver) => format!("unfit {driver}"),
            };
            assert_eq!(said, want, "{cuda} on {driver}");
        }
    }

    #[test]
    fn the_newest_cuda_of_a_driver() {
        for (driver, want) in
            [("550.54.15", Some("12.4")), ("418.39", Some("10.1")), ("575.51", Some("12.8")), ("300", None)]
        {
            assert_eq!(of_driver(&version(driver)).map(|v| v.to_string()).as_deref(), want, "{driver}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        assert!(version("550.54.15") > version("550.9"));
        assert_eq!(version("525"), version("525.0.0"));
        assert!(Version::parse("12.x").is_none());
    }
}
