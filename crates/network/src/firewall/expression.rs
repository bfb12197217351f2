//! nf_tables expressions: what a rule is made of. Numbers are in network byte order but for the
//! values that registers hold in the machine's.

use robot_env_sys::netlink::Message;

pub(super) const NESTED: u16 = 0x8000;
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_REGISTER: u32 = 0;
/// `NFT_REG32_00`: four bytes a register from here on.
const REGISTER: u32 = 8;

/// What `meta` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    IncomingName = 6,
    OutgoingName = 7,
    Family = 15,
    Protocol = 16,
}

/// One expression. Registers are counted in fours of bytes from the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads a fact of the packet.
    Meta(Meta, u32),
    /// Loads from the network header: offset, length, register.
    Network(u32, u32, u32),
    /// Loads from the transport header.
    Transport(u32, u32, u32),
    /// Loads the connection's state or status.
    Connection(Connection),
    /// Loads the kind of the destination address (`RTN_*`).
    DestinationKind,
    /// The first register: and with a mask.
    Mask(u32),
    /// Goes on only if the first register equals.
    Is(Vec<u8>),
    /// Goes on only if it doesn't.
    IsNot(Vec<u8>),
    /// Goes on only if the set has the registers' value.
    In(&'static str),
    /// Goes on only if it has not.
    NotIn(&'static str),
    /// Goes on only if the map has the registers' value, and loads what it maps to.
    Map(&'static str),
    /// Translates the destination to the registers: an address of 4 or 16 bytes, then a port.
    Destination { v6: bool },
    /// Translates the source to the outgoing interface's address.
    Masquerade,
    /// Counts, as rules of iptables do.
    Counter,
    /// Ends the chain: 0 drops, 1 accepts.
    Verdict(u32),
}

/// What `ct` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    State = 0,
    Status = 2,
}

impl Expression {
    /// Writes it as an element of a rule's list.
    pub(super) fn write(&self, message: &mut Message) {
        let element = message.begin(LIST_ELEM | NESTED);
        message.text(EXPR_NAME, self.name());
        let data = message.begin(EXPR_DATA | NESTED);
        match self {
            Expression::Meta(key, register) => {
                message.number_be(1, REGISTER + register).number_be(2, *key as u32);
            }
            Expression::Network(offset, length, register) => payload(message, 1, *offset, *length, *register),
            Expression::Transport(offset, length, register) => {
                payload(message, 2, *offset, *length, *register);
            }
            Expression::Connection(key) => {
                message.number_be(1, REGISTER).number_be(2, *key as u32);
            }
            Expression::DestinationKind => {
                const ADDRESS_TYPE: u32 = 3;
                const DESTINATION: u32 = 2;
                message.number_be(1, REGISTER).number_be(2, ADDRESS_TYPE).number_be(3, DESTINATION);
            }
            Expression::Mask(mask) => {
                message.number_be(1, REGISTER).number_be(2, REGISTER).number_be(3, 4);
                value(message, 4, &mask.to_ne_bytes());
                value(message, 5, &[0; 4]);
            }
            Expression::Is(bytes) | Expression::IsNot(bytes) => {
                let differs = matches!(self, Expression::IsNot(_));
                message.number_be(1, REGISTER).number_be(2, u32::from(differs));
                value(message, 3, bytes);
            }
            Expression::In(set) => {
                message.text(1, set).number_be(2, REGISTER);
            }
            Expression::NotIn(set) => {
                message.text(1, set).number_be(2, REGISTER).number_be(5, 1);
            }
            Expression::Map(map) => {
                message.text(1, map).number_be(2, REGISTER).number_be(3, REGISTER);
            }
            Expression::Destination { v6 } => {
                let (family, words) = if *v6 { (10, 4) } else { (2, 1) };
                message.number_be(1, 1).number_be(2, family);
                message.number_be(3, REGISTER).number_be(5, REGISTER + words);
            }
            Expression::Masquerade | Expression::Counter => {}
            Expression::Verdict(code) => {
                message.number_be(1, VERDICT_REGISTER);
                let inner = message.begin(2 | NESTED);
                let verdict = message.begin(DATA_VERDICT | NESTED);
                message.number_be(VERDICT_CODE, *code);
                message.end(verdict);
                message.end(inner);
            }
        }
        message.end(data);
        message.end(element);
    }

    fn name(&self) -> &'static str {
        match self {
            Expression::Meta(..) => "meta",
            Expression::Network(..) | Expression::Transport(..) => "payload",
            Expression::Connection(_) => "ct",
            Expression::DestinationKind => "fib",
            Expression::Mask(_) => "bitwise",
            Expression::Is(_) | Expression::IsNot(_) => "cmp",
            Expression::In(_) | Expression::NotIn(_) | Expression::Map(_) => "lookup",
            Expression::Destination { .. } => "nat",
            Expression::Masquerade => "masq",
            Expression::Counter => "counter",
            Expression::Verdict(_) => "immediate",
        }
    }
}

fn payload(message: &mut Message, base: u32, offset: u32, length: u32, register: u32) {
    message.number_be(1, REGISTER + register).number_be(2, base).number_be(3, offset).number_be(4, length);
}

pub(super) fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    let nest = message.begin(kind | NESTED);
    message.attribute(DATA_VALUE, bytes);
    message.end(nest);
}
