//! Texts for people: names that users have chosen, SQLSTATEs.

/// A name from a table that users write, fit for one line of the log: control characters are replaced.
pub fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An SQLSTATE as its five characters: each is six bits of the number, the first one lowest (PostgreSQL's
/// `MAKE_SQLSTATE`).
pub fn sqlstate(code: i32) -> String {
    let character = |place: u32| (code >> (6 * place)) & 0x3f;
    let characters = (0..5).filter_map(|place| u8::try_from(character(place)).ok());
    characters.map(|six| char::from(six + b'0')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_log() {
        assert_eq!(printable("a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn an_sqlstate_has_its_five_characters() {
        // ERRCODE_LOCK_NOT_AVAILABLE and ERRCODE_SYNTAX_ERROR of PostgreSQL.
        assert_eq!((sqlstate(50_463_045).as_str(), sqlstate(16_801_924).as_str()), ("55P03", "42601"));
    }
}
