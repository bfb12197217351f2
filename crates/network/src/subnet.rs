//! An address range: a network address and a prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use robot_env_diag::Error;
use serde::{Deserialize, Serialize};

/// A range of IPv4 or IPv6 addresses, written `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The range of `prefix` bits that `address` lies in; `None` for a prefix that is too long.
    pub fn containing(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let width = width(address);
        if prefix > width {
            return None;
        }
        let shift = u32::from(width - prefix);
        let bits = to_bits(address).checked_shr(shift).unwrap_or(0).checked_shl(shift).unwrap_or(0);
        Some(Subnet { address: from_bits(bits, address), prefix })
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The number of fixed bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Is it one of IPv6 addresses?
    pub fn is_v6(self) -> bool {
        self.address.is_ipv6()
    }

    /// Does `address` lie in it?
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_v6() && Subnet::containing(address, self.prefix) == Some(self)
    }

    /// Do the two share an address?
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Does all of `other` lie in it?
    pub fn covers(self, other: Subnet) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        from_bits(to_bits(self.address) | self.host_mask(), self.address)
    }

    /// The address `offset` behind the first; `None` outside the range.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        (offset <= self.host_mask()).then(|| from_bits(to_bits(self.address) + offset, self.address))
    }

    /// How far `address` lies behind the first.
    pub fn offset(self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| to_bits(address) - to_bits(self.address))
    }

    /// The number of addresses less one.
    pub fn host_mask(self) -> u128 {
        let free = u32::from(width(self.address) - self.prefix);
        1u128.checked_shl(free).unwrap_or(0).wrapping_sub(1)
    }

    /// Is `address` one that no interface can have: IPv4's network and broadcast address, IPv6's
    /// subnet-router anycast address?
    pub fn reserves(self, address: IpAddr) -> bool {
        match self.host_mask() {
            0 | 1 => false,
            _ => address == self.address || (!self.is_v6() && address == self.last()),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(bits: u128, family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::invalid(format!("cannot read subnet `{text}`: {reason}"));
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| wrong("a prefix length is missing, as in 10.1.0.0/16"))?;
        let address: IpAddr = address.parse().map_err(|_| wrong("not an IP address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong("the prefix length is not a number"))?;
        let subnet = Subnet::containing(address, prefix).ok_or_else(|| wrong("the prefix is too long"))?;
        if subnet.address != address {
            return Err(wrong(&format!("the address has bits behind the prefix; {subnet} has not")));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let wide: Subnet = "10.1.0.0/16".parse().unwrap();
        let narrow: Subnet = "10.1.7.0/24".parse().unwrap();
        assert!(
            wide.overlaps(narrow) && narrow.overlaps(wide) && wide.covers(narrow) && !narrow.covers(wide)
        );
        assert_eq!(narrow.last().to_string(), "10.1.7.255");
        assert_eq!(narrow.nth(5).unwrap().to_string(), "10.1.7.5");
        assert_eq!(narrow.nth(256), None);
        assert_eq!(narrow.offset("10.1.7.9".parse().unwrap()), Some(9));
        assert!(!wide.contains("::1".parse().unwrap()));
        let six: Subnet = "fd00::/64".parse().unwrap();
        assert!(six.reserves("fd00::".parse().unwrap()) && !six.reserves(six.last()));
        let all: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()) && all.last().to_string() == "255.255.255.255");
        assert_eq!("::/0".parse::<Subnet>().unwrap().host_mask(), u128::MAX);
        assert_eq!("10.0.0.1/32".parse::<Subnet>().unwrap().host_mask(), 0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("10.1.0.0", "prefix length is missing"),
            ("10.1.0/16", "not an IP address"),
            ("10.1.0.0/x", "not a number"),
            ("10.1.0.0/33", "too long"),
            ("10.1.0.1/16", "10.1.0.0/16 has not"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err();
            assert!(error.message().contains(reason), "{text}: {}", error.message());
        }
        assert!(serde_json::from_str::<Subnet>("\"10.1.0.9/16\"").is_err());
        assert_eq!(
            serde_json::to_string(&serde_json::from_str::<Subnet>("\"10.1.0.0/16\"").unwrap()).unwrap(),
            "\"10.1.0.0/16\""
        );
    }
}
