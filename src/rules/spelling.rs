//! Whether the id of a worker may be a value of a type, for types of which most ids are none. PostgreSQL decides: what
//! is refused here, it would refuse, too.

/// What the values of a type look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A uuid. What passes is one.
    Uuid,
    /// A whole or decimal number, or one with an exponent.
    Number,
    /// The address of a host or a network.
    Address,
    /// Anything.
    Any,
}

impl Spelling {
    /// Whether an id may be such a value.
    pub fn allows(self, id: &str) -> bool {
        match self {
            Self::Uuid => is_uuid(id),
            Self::Number => may_be_number(id),
            Self::Address => id.bytes().all(|byte| byte.is_ascii_hexdigit() || b"xX.:/".contains(&byte)),
            Self::Any => true,
        }
    }

    /// Whether every id that it allows is a value.
    pub fn is_exact(self) -> bool {
        self == Self::Uuid
    }
}

/// 32 hexadecimal digits, in braces or not, with a hyphen or none after each four of them.
fn is_uuid(id: &str) -> bool {
    let digits = match id.strip_prefix('{') {
        Some(rest) => match rest.strip_suffix('}') {
            Some(digits) => digits,
            None => return false,
        },
        None => id,
    };
    let (mut count, mut after_hyphen) = (0, true);
    for byte in digits.bytes() {
        match byte {
            b'-' if count % 4 == 0 && !after_hyphen => after_hyphen = true,
            _ if byte.is_ascii_hexdigit() => {
                count += 1;
                after_hyphen = false;
            }
            _ => return false,
        }
    }
    count == 32 && !after_hyphen
}

/// Has the letters of numbers alone: newer servers take 0x1F, 0o17, 0b11 and 1_000, too.
fn may_be_number(id: &str) -> bool {
    let unsigned = id.trim_matches(|letter: char| letter.is_ascii_whitespace() || letter == '\x0b');
    let unsigned = unsigned.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let is_of_number = |byte: u8| byte.is_ascii_hexdigit() || b"+-._xo \t".contains(&byte);
    ["nan", "inf", "infinity"].contains(&unsigned.as_str())
        || unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
            && unsigned.bytes().all(is_of_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_what_postgres_takes_for_them() {
        for uuid in [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert!(Spelling::Uuid.allows(uuid), "{uuid}");
        }
        for other in [
            "",
            "worker",
            "{}",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
            "-a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0e-ebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            assert!(!Spelling::Uuid.allows(other), "{other}");
        }
    }

    #[test]
    fn no_number_and_no_address_is_refused() {
        for number in ["7", "007", " -1.50 ", "+1e+3", ".5", "NaN", "-Infinity", "inf", "0x1F", "1_000"] {
            assert!(Spelling::Number.allows(number), "{number}");
        }
        for address in ["10.0.0.1/32", "2001:DB8::1", "::ffff:1.2.3.4", "10.1", "0x0a01"] {
            assert!(Spelling::Address.allows(address), "{address}");
        }
        for worker in ["worker-7", "7-node-host", "node", ""] {
            assert!(!Spelling::Number.allows(worker), "{worker}");
        }
        assert!(!Spelling::Address.allows("10.0.0.1-4711"));
        assert!(Spelling::Any.allows("worker"));
    }
}
