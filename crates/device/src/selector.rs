//! Devices by what they are: `usb:0403:6001`, `serial`, `/dev/serial/by-id/...`.
//!
//! Read from sysfs and `/dev` as they are now. A selector that finds nothing is no error: what it
//! waits for may be plugged in later.

use robot_env_diag::{Error, Result};
use robot_env_spec::{DeviceSelector, ResolvedDevice};

use crate::root::HostRoot;

/// Directories of links that udev makes; a path below one of them names a device, not a node.
const LINKS: [&str; 6] =
    ["/dev/serial/", "/dev/v4l/", "/dev/input/by-", "/dev/snd/by-", "/dev/disk/by-", "/dev/gpiochip-by-"];
/// Directories below a USB device's that are looked into.
const DEPTH: usize = 12;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Serial ports that somebody can plug something into.
    Serial,
    /// Cameras and other video sources.
    Camera,
    /// Keyboards, mice, joysticks.
    Input,
    /// CAN interfaces, which are no nodes but network interfaces.
    Can,
    /// GPIO chips.
    Gpio,
    /// I2C buses.
    I2c,
    /// SPI devices.
    Spi,
    /// Sound cards.
    Sound,
    /// Every USB device's own node.
    Usb,
    /// Human interface devices, raw.
    Hidraw,
}

impl Class {
    /// All, as help lists them.
    pub const ALL: [(&'static str, Class); 10] = [
        ("serial", Class::Serial),
        ("camera", Class::Camera),
        ("input", Class::Input),
        ("can", Class::Can),
        ("gpio", Class::Gpio),
        ("i2c", Class::I2c),
        ("spi", Class::Spi),
        ("sound", Class::Sound),
        ("usb", Class::Usb),
        ("hidraw", Class::Hidraw),
    ];

    fn subsystem(self) -> &'static str {
        match self {
            Class::Serial => "tty",
            Class::Camera => "video4linux",
            Class::Input => "input",
            Class::Can => "net",
            Class::Gpio => "gpio",
            Class::I2c => "i2c-dev",
            Class::Spi => "spidev",
            Class::Sound => "sound",
            Class::Usb => "usb",
            Class::Hidraw => "hidraw",
        }
    }
}

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All of a kind.
    Class(Class),
    /// What belongs to a USB device.
    Usb {
        /// `idVendor`.
        vendor: u16,
        /// `idProduct`.
        product: u16,
        /// Its serial number; absent: any.
        serial: Option<String>,
    },
    /// What a path leads to.
    Path(String),
}

impl Selector {
    /// Reads a selector; `None` for a text that is one of Docker's device paths.
    ///
    /// # Errors
    /// A text that begins as a selector and is none.
    pub fn parse(text: &str) -> Result<Option<Selector>> {
        if let Some(rest) = text.strip_prefix("usb:") {
            let bad = || {
                Error::invalid(format!("invalid device `{text}`: it must be usb:VENDOR:PRODUCT[:SERIAL]"))
                    .with_hint("`device ls` shows this host's devices")
            };
            let mut parts = rest.splitn(3, ':');
            let mut number = || {
                let digits = parts.next().filter(|digits| (1..=4).contains(&digits.len())).ok_or_else(bad)?;
                u16::from_str_radix(digits, 16).map_err(|_| bad())
            };
            let (vendor, product) = (number()?, number()?);
            let serial = parts.next().map(str::to_owned);
            if serial.as_deref() == Some("") {
                return Err(bad());
            }
            return Ok(Some(Selector::Usb { vendor, product, serial }));
        }
        if let Some(path) = text.strip_prefix("path:") {
            if !path.starts_with("/dev/") || path.split('/').any(|part| part == "..") {
                return Err(Error::invalid(format!("invalid device `{text}`: it must be a path below /dev")));
            }
            return Ok(Some(Selector::Path(path.to_owned())));
        }
        if LINKS.iter().any(|place| text.starts_with(place)) && !text.contains(':') {
            return Ok(Some(Selector::Path(text.to_owned())));
        }
        let word = match text {
            "tty" => "serial",
            "video" => "camera",
            "audio" => "sound",
            other => other,
        };
        if let Some((_, class)) = Class::ALL.iter().find(|(name, _)| *name == word) {
            return Ok(Some(Selector::Class(*class)));
        }
        if text.starts_with('/') || text.contains('=') {
            return Ok(None);
        }
        let classes: Vec<&str> = Class::ALL.iter().map(|(name, _)| *name).collect();
        Err(Error::invalid(format!("invalid device `{text}`: it is neither a path nor a kind of device"))
            .with_hint(format!(
                "write a path, usb:VENDOR:PRODUCT[:SERIAL], or one of {}",
                classes.join(", ")
            )))
    }
}

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The node, by the path that it has inside.
    pub node: ResolvedDevice,
    /// `tty`, `video4linux`, ...
    pub subsystem: String,
    /// The USB device that it belongs to: `0403:6001`, serial number, product.
    pub usb: Option<(String, String, String)>,
}

/// The devices that a container's selectors mean now, each with all its paths: its own, the link by
/// which it was selected, its alias.
pub fn select(root: &HostRoot, selectors: &[DeviceSelector]) -> Result<Vec<ResolvedDevice>> {
    let mut out: Vec<ResolvedDevice> = Vec::new();
    for selector in selectors {
        let parsed = Selector::parse(&selector.what)?
            .ok_or_else(|| Error::invalid(format!("invalid device selector `{}`", selector.what)))?;
        for (index, present) in find(root, &parsed).into_iter().enumerate() {
            let mut node = present.node;
            node.permissions.clone_from(&selector.permissions);
            let mut paths = vec![node.path.clone()];
            if let Selector::Path(path) = &parsed {
                paths.push(path.clone());
            }
            if let Some(alias) = &selector.alias {
                // The first one has the name, the others a number behind it.
                paths.push(if index == 0 { alias.clone() } else { format!("{alias}{index}") });
            }
            for path in paths {
                if !out.iter().any(|had| had.path == path) {
                    out.push(ResolvedDevice { path, ..node.clone() });
                }
            }
        }
    }
    Ok(out)
}

/// The devices that a selector means now.
pub fn find(root: &HostRoot, selector: &Selector) -> Vec<Present> {
    match selector {
        Selector::Class(class) => of_class(root, *class),
        Selector::Usb { vendor, product, serial } => of_usb(root, *vendor, *product, serial.as_deref()),
        Selector::Path(path) => {
            let resolved = root.resolve(path);
            let node = resolved.as_deref().and_then(|path| root.device(path));
            node.map(|node| Present { node, subsystem: String::new(), usb: None }).into_iter().collect()
        }
    }
}

/// Everything that has a kind, for a list.
pub fn all(root: &HostRoot) -> Vec<(&'static str, Present)> {
    let classes = Class::ALL.into_iter().filter(|(_, class)| *class != Class::Can);
    classes
        .flat_map(|(name, class)| of_class(root, class).into_iter().map(move |found| (name, found)))
        .collect()
}

/// The names of the host's CAN interfaces.
pub fn can_interfaces(root: &HostRoot) -> Vec<String> {
    // ARPHRD_CAN
    let is_can = |name: &String| root.line(&format!("/sys/class/net/{name}/type")).as_deref() == Some("280");
    root.names("/sys/class/net").into_iter().filter(is_can).collect()
}

fn of_class(root: &HostRoot, class: Class) -> Vec<Present> {
    let mut out = Vec::new();
    match class {
        Class::Can => {}
        Class::Usb => {
            for name in root.names("/sys/bus/usb/devices") {
                out.extend(present(root, &format!("/sys/bus/usb/devices/{name}"), "usb"));
            }
        }
        _ => {
            let subsystem = class.subsystem();
            // Consoles are no ports; there are 64 of them.
            let is_console = |name: &str| {
                name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
            };
            let wanted = |name: &str| class != Class::Serial || !is_console(name);
            for name in root.names_where(&format!("/sys/class/{subsystem}"), wanted) {
                let place = format!("/sys/class/{subsystem}/{name}");
                if class == Class::Serial && !is_port(root, &name, &place) {
                    continue;
                }
                out.extend(present(root, &place, subsystem));
            }
        }
    }
    out
}

/// Whether a terminal is a port that exists: consoles and pseudo terminals are none, and the kernel
/// has names for UARTs that no machine has.
fn is_port(root: &HostRoot, name: &str, place: &str) -> bool {
    if !root.exists(&format!("{place}/device")) {
        return false;
    }
    // A UART of type 0 is not there.
    !name.starts_with("ttyS") || root.line(&format!("{place}/type")).is_none_or(|kind| kind != "0")
}

fn of_usb(root: &HostRoot, vendor: u16, product: u16, serial: Option<&str>) -> Vec<Present> {
    const DEVICES: &str = "/sys/bus/usb/devices";
    let mut out = Vec::new();
    for name in root.names(DEVICES) {
        let place = format!("{DEVICES}/{name}");
        let number =
            |file: &str| root.line(&format!("{place}/{file}")).and_then(|t| u16::from_str_radix(&t, 16).ok());
        if number("idVendor") != Some(vendor) || number("idProduct") != Some(product) {
            continue;
        }
        if serial.is_some() && root.line(&format!("{place}/serial")).as_deref() != serial {
            continue;
        }
        let Some(real) = root.resolve(&place) else { continue };
        below(root, &real, 0, &mut out);
    }
    out
}

/// The nodes of a device's directory and of those below it, but for other USB devices behind a hub.
fn below(root: &HostRoot, place: &str, depth: usize, out: &mut Vec<Present>) {
    if root.exists(&format!("{place}/dev")) {
        let subsystem = root.link(&format!("{place}/subsystem")).unwrap_or_default();
        let subsystem = subsystem.rsplit('/').next().unwrap_or_default().to_owned();
        out.extend(present(root, place, &subsystem));
    }
    if depth >= DEPTH {
        return;
    }
    for name in root.names(place) {
        let inner = format!("{place}/{name}");
        // Links lead elsewhere.
        if root.link(&inner).is_some()
            || !root.is_directory(&inner)
            || root.exists(&format!("{inner}/idVendor"))
        {
            continue;
        }
        below(root, &inner, depth + 1, out);
    }
}

/// The device at a place of sysfs, where it has a node.
fn present(root: &HostRoot, place: &str, subsystem: &str) -> Option<Present> {
    let event = root.text(&format!("{place}/uevent"))?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    let node = root.device(&format!("/dev/{name}"))?;
    Some(Present { node, subsystem: subsystem.to_owned(), usb: usb_of(root, place) })
}

/// The USB device that a place of sysfs is below.
fn usb_of(root: &HostRoot, place: &str) -> Option<(String, String, String)> {
    let mut at = root.resolve(place)?;
    while at.len() > "/sys/devices".len() {
        if let Some(vendor) = root.line(&format!("{at}/idVendor")) {
            let line = |file: &str| root.line(&format!("{at}/{file}")).unwrap_or_default();
            return Some((format!("{vendor}:{}", line("idProduct")), line("serial"), line("product")));
        }
        at.truncate(at.rfind('/')?);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;
    use std::fs;
    use std::os::unix::fs::symlink;

    const BUS: &str = "sys/devices/pci0000:00/usb1";

    fn file(place: &TemporaryDirectory, path: &str, text: &str) {
        let path = place.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(place: &TemporaryDirectory, path: &str, target: &str) {
        let path = place.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// A hub with a serial adapter and a camera behind it, and a UART that is not there.
    fn machine(name: &str) -> TemporaryDirectory {
        let place = TemporaryDirectory::new(name);
        for (at, vendor, product, serial, node) in [
            ("1-1", "1d6b", "0002", "", 1),
            ("1-1/1-1.1", "0403", "6001", "A1B2", 2),
            ("1-1/1-1.2", "046d", "0825", "CAM", 3),
        ] {
            let base = format!("{BUS}/{at}");
            let short = at.rsplit('/').next().unwrap();
            file(&place, &format!("{base}/idVendor"), vendor);
            file(&place, &format!("{base}/idProduct"), product);
            file(&place, &format!("{base}/serial"), serial);
            file(&place, &format!("{base}/product"), "Thing");
            file(&place, &format!("{base}/dev"), "189:1");
            file(
                &place,
                &format!("{base}/uevent"),
                &format!("MAJOR=189\nMINOR={node}\nDEVNAME=bus/usb/001/00{node}\n"),
            );
            file(&place, &format!("dev/bus/usb/001/00{node}"), &format!("c 189:{node}"));
            link(
                &place,
                &format!("sys/bus/usb/devices/{short}"),
                &format!("../../../devices/pci0000:00/usb1/{at}"),
            );
        }
        let tty = "1-1/1-1.1/1-1.1:1.0/ttyUSB0/tty/ttyUSB0";
        file(&place, &format!("{BUS}/{tty}/uevent"), "MAJOR=188\nMINOR=0\nDEVNAME=ttyUSB0\n");
        file(&place, &format!("{BUS}/{tty}/dev"), "188:0");
        link(&place, &format!("{BUS}/{tty}/device"), "../..");
        link(&place, "sys/class/tty/ttyUSB0", &format!("../../devices/pci0000:00/usb1/{tty}"));
        file(&place, "dev/ttyUSB0", "c 188:0");
        link(&place, "dev/serial/by-id/usb-FTDI_A1B2", "../../ttyUSB0");
        let video = "1-1/1-1.2/1-1.2:1.0/video4linux/video0";
        file(&place, &format!("{BUS}/{video}/uevent"), "MAJOR=81\nMINOR=0\nDEVNAME=video0\n");
        file(&place, &format!("{BUS}/{video}/dev"), "81:0");
        link(&place, "sys/class/video4linux/video0", &format!("../../devices/pci0000:00/usb1/{video}"));
        file(&place, "dev/video0", "c 81:0");
        file(&place, "sys/class/tty/ttyS0/type", "0\n");
        file(&place, "sys/class/tty/ttyS0/device/x", "");
        file(&place, "sys/class/tty/ttyS0/uevent", "DEVNAME=ttyS0\n");
        file(&place, "dev/ttyS0", "c 4:64");
        file(&place, "sys/class/tty/console/uevent", "DEVNAME=console\n");
        file(&place, "sys/class/net/can0/type", "280\n");
        file(&place, "sys/class/net/eth0/type", "1\n");
        file(&place, "sys/class/gpio/gpiochip0/uevent", "MAJOR=254\nMINOR=0\nDEVNAME=gpiochip0\n");
        file(&place, "dev/gpiochip0", "c 254:0");
        place
    }

    fn selected(root: &HostRoot, what: &str, alias: Option<&str>) -> Vec<String> {
        let selector =
            DeviceSelector { what: what.into(), alias: alias.map(str::to_owned), permissions: "rw".into() };
        select(root, &[selector]).unwrap().into_iter().map(|device| device.path).collect()
    }

    #[test]
    fn selectors_and_paths() {
        let usb = |serial: Option<&str>| Selector::Usb {
            vendor: 0x403,
            product: 0x6001,
            serial: serial.map(str::to_owned),
        };
        for (text, want) in [
            ("usb:0403:6001", Some(usb(None))),
            ("usb:403:6001:A1:B2", Some(usb(Some("A1:B2")))),
            ("serial", Some(Selector::Class(Class::Serial))),
            ("tty", Some(Selector::Class(Class::Serial))),
            ("video", Some(Selector::Class(Class::Camera))),
            ("/dev/serial/by-id/x", Some(Selector::Path("/dev/serial/by-id/x".into()))),
            ("path:/dev/ttyUSB0", Some(Selector::Path("/dev/ttyUSB0".into()))),
            ("/dev/ttyUSB0", None),
            ("/dev/ttyUSB0:/dev/x:rw", None),
            ("/dev/serial/by-id/x:/dev/y", None),
        ] {
            assert_eq!(Selector::parse(text).unwrap(), want, "{text}");
        }
        for bad in
            ["usb:0403", "usb:x:y", "usb:0403:6001:", "path:ttyUSB0", "path:/dev/../etc", "seriall", ""]
        {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_plugged_in() {
        let place = machine("selector");
        let root = HostRoot::fixture(place.path());
        for (what, alias, want) in [
            ("serial", None, &["/dev/ttyUSB0"][..]),
            ("camera", Some("/dev/eye"), &["/dev/video0", "/dev/eye"]),
            ("usb:0403:6001", None, &["/dev/bus/usb/001/002", "/dev/ttyUSB0"]),
            ("usb:0403:6001:A1B2", None, &["/dev/bus/usb/001/002", "/dev/ttyUSB0"]),
            ("usb:0403:6001:OTHER", None, &[]),
            ("usb:1d6b:0002", None, &["/dev/bus/usb/001/001"]),
            ("usb:dead:beef", None, &[]),
            ("usb", None, &["/dev/bus/usb/001/001", "/dev/bus/usb/001/002", "/dev/bus/usb/001/003"]),
            ("/dev/serial/by-id/usb-FTDI_A1B2", None, &["/dev/ttyUSB0", "/dev/serial/by-id/usb-FTDI_A1B2"]),
            ("/dev/serial/by-id/other", None, &[]),
            ("path:/dev/ttyUSB0", Some("/dev/lidar"), &["/dev/ttyUSB0", "/dev/lidar"]),
            ("gpio", None, &["/dev/gpiochip0"]),
            ("input", None, &[]),
        ] {
            assert_eq!(selected(&root, what, alias), want, "{what}");
        }
        assert_eq!(can_interfaces(&root), ["can0"]);
        let list = all(&root);
        let serial = list.iter().find(|(class, _)| *class == "serial").unwrap();
        assert_eq!(serial.1.usb, Some(("0403:6001".into(), "A1B2".into(), "Thing".into())));
        let device =
            &select(&root, &[DeviceSelector { what: "serial".into(), alias: None, permissions: "r".into() }])
                .unwrap()[0];
        assert_eq!((device.major, device.minor, device.permissions.as_str()), (188, 0, "r"));
    }
}
