//! Rows of `volume ls`.

use robot_env_wire::Volume;

use super::labels;
use crate::format::{Column, Value};

/// Every field of a row, with its heading.
pub(crate) const COLUMNS: &[Column] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Label", ""),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Status", "STATUS"),
];

/// What `volume ls` prints when nothing else is asked for.
pub(crate) const TABLE: &str = "{{.Driver}}\t{{.Name}}";

/// The keys of `--filter`.
pub(crate) const FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

/// A row.
pub(crate) fn row(volume: &Volume) -> Value {
    let all_labels = volume.labels.clone().unwrap_or_default();
    let unknown = || Value::from("N/A");
    Value::row([
        ("Name", volume.name.as_str().into()),
        ("Driver", volume.driver.as_str().into()),
        ("Scope", volume.scope.as_str().into()),
        ("Mountpoint", volume.mountpoint.as_str().into()),
        ("Labels", labels(&all_labels).into()),
        ("Label", Value::Lookup(all_labels)),
        ("Links", unknown()),
        ("Size", unknown()),
        ("Availability", unknown()),
        ("Group", unknown()),
        ("Status", unknown()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{List, Style};

    #[test]
    fn a_row_as_docker_prints_it() {
        let volume = Volume { driver: "local".into(), name: "data".into(), ..Volume::default() };
        let text =
            List { columns: COLUMNS, rows: vec![row(&volume)] }.print(&Style::parse(None, TABLE).unwrap());
        assert_eq!(text.unwrap(), "DRIVER    VOLUME NAME\nlocal     data\n");
    }
}
