//! What else a job gets when it is settled, as its owner writes it: `column = value`. No SQL: what is read here is put
//! together again with quoted names and literals, so it cannot call anything.

/// A column and its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The column's name, as in the catalog.
    pub column: String,
    /// The first of these that is not NULL.
    pub value: Vec<Term>,
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// NULL.
    Null,
    /// The text of a constant, of the column's type.
    Constant(String),
    /// What another column of the job has.
    Column(String),
    /// The time of the death.
    Now,
}

impl Assignment {
    /// Reads an assignment.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut rest = Text(text);
        let column = rest.name().ok_or("It begins with the name of a column.")?;
        if !rest.takes("=") {
            return Err("After the column there is an equals sign.");
        }
        let value = rest.value()?;
        if !rest.is_over() {
            return Err("There is more text after the value.");
        }
        Ok(Self { column, value })
    }
}

const NO_VALUE: &str =
    "A value is NULL, a literal, a number, true, false, now(), a column, or coalesce() of such values.";

/// What is still to be read.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn value(&mut self) -> Result<Vec<Term>, &'static str> {
        let before = self.0;
        let is_coalesce = self.name().as_deref() == Some("coalesce") && self.takes("(");
        if !is_coalesce {
            self.0 = before;
            return Ok(vec![self.term()?]);
        }
        let mut terms = vec![self.term()?];
        while self.takes(",") {
            terms.push(self.term()?);
        }
        if self.takes(")") { Ok(terms) } else { Err("The parenthesis of coalesce() is not closed.") }
    }

    fn term(&mut self) -> Result<Term, &'static str> {
        self.skip_spaces();
        if self.0.starts_with('\'') {
            return self.quoted('\'').map(Term::Constant).ok_or("A literal is not closed.");
        }
        if let Some(number) = self.number() {
            return Ok(Term::Constant(number));
        }
        let is_quoted = self.0.starts_with('"');
        let name = self.name().ok_or(NO_VALUE)?;
        match name.as_str() {
            _ if is_quoted => Ok(Term::Column(name)),
            "null" => Ok(Term::Null),
            "true" | "false" => Ok(Term::Constant(name)),
            "now" if self.takes("(") => {
                if self.takes(")") {
                    Ok(Term::Now)
                } else {
                    Err(NO_VALUE)
                }
            }
            _ if self.0.trim_start().starts_with('(') => Err(NO_VALUE),
            _ => Ok(Term::Column(name)),
        }
    }

    /// A name as SQL reads it: in small letters unless it is quoted.
    fn name(&mut self) -> Option<String> {
        self.skip_spaces();
        if self.0.starts_with('"') {
            return self.quoted('"').filter(|name| !name.is_empty());
        }
        let is_of_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let end = self.0.find(|c| !is_of_name(c)).unwrap_or(self.0.len());
        let name = &self.0[..end];
        if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return None;
        }
        self.0 = &self.0[end..];
        Some(name.to_ascii_lowercase())
    }

    fn number(&mut self) -> Option<String> {
        let unsigned = self.0.strip_prefix('-').unwrap_or(self.0);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit());
        let end = end + self.0.len() - unsigned.len();
        let number = is_number.then(|| self.0[..end].to_owned())?;
        self.0 = &self.0[end..];
        Some(number)
    }

    /// What is between two quotes; a quote in it is doubled. `None` without the second one.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut inside = String::new();
        let mut characters = self.0.char_indices().skip(1).peekable();
        while let Some((index, character)) = characters.next() {
            match character == quote {
                true if characters.next_if(|(_, next)| *next == quote).is_some() => inside.push(quote),
                true => {
                    self.0 = &self.0[index + quote.len_utf8()..];
                    return Some(inside);
                }
                false => inside.push(character),
            }
        }
        None
    }

    fn takes(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn is_over(&mut self) -> bool {
        self.skip_spaces();
        self.0.is_empty()
    }

    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Vec<Term>) {
        let assignment = Assignment::parse(text).unwrap();
        (assignment.column, assignment.value)
    }

    #[test]
    fn a_value_is_a_constant_a_column_a_time_or_the_first_of_some() {
        let constant = |text: &str| Term::Constant(text.into());
        let column = |name: &str| Term::Column(name.into());
        for (text, name, value) in [
            ("claim_id = NULL", "claim_id", vec![Term::Null]),
            ("Note='it''s'", "note", vec![constant("it's")]),
            ("\"Note \"\"a\" = \"Null\"", "Note \"a", vec![column("Null")]),
            ("n = -1.5", "n", vec![constant("-1.5")]),
            ("ok = False", "ok", vec![constant("false")]),
            (" run_at = now ( ) ", "run_at", vec![Term::Now]),
            ("run_at = now", "run_at", vec![column("now")]),
            ("a = coalesce(a, B, 'x', NULL)", "a", vec![column("a"), column("b"), constant("x"), Term::Null]),
            ("coalesce = coalesce", "coalesce", vec![column("coalesce")]),
            ("größe = 1", "größe", vec![constant("1")]),
        ] {
            assert_eq!(read(text), (name.to_owned(), value), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_read() {
        for text in [
            "",
            "=",
            "a",
            "a =",
            "a = 'x",
            "a = \"x",
            "= 1",
            "1 = 1",
            "a = b c",
            "a = f()",
            "a = f(b)",
            "a = now(1)",
            "a = b + 1",
            "a = (SELECT 1)",
            "a = coalesce(b",
            "a = coalesce()",
            "a = coalesce(coalesce(b))",
            "a = 1, b = 2",
            "a = 'x'; DROP TABLE t",
            "\"\" = 1",
            "a == 1",
            "a = b::text",
            "a = E'x'",
            "a = $1",
            "a.b = 1",
            "a = now()()",
        ] {
            assert!(Assignment::parse(text).is_err(), "{text}");
        }
    }
}
