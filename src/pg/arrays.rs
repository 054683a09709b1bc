//! Arrays as parameters of statements, thousands of elements long: made in one piece, not element by element.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// A `text[]`.
pub fn texts<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> DatumWithOid<'static> {
    // Each a header and the text, in whole words: the header has to be aligned.
    let mut words: Vec<u32> = Vec::with_capacity(texts.clone().map(|text| 1 + text.len().div_ceil(4)).sum());
    let mut begins = Vec::with_capacity(texts.size_hint().0);
    for text in texts {
        let begin = words.len();
        begins.push(begin);
        words.push(0);
        let (whole, rest) = text.as_bytes().as_chunks();
        words.extend(whole.iter().map(|bytes| u32::from_ne_bytes(*bytes)));
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            words.push(u32::from_ne_bytes(last));
        }
        let header = (&raw mut words[begin]).cast();
        // SAFETY: the header's word, to be filled with the length of what follows and of itself; a text of
        // Postgres is shorter than 1 GB.
        unsafe { pgrx::set_varsize_4b(header, (size_of::<u32>() + text.len()) as i32) };
    }
    let elements = begins.into_iter().map(|begin| words.as_ptr().wrapping_add(begin).into()).collect();
    // SAFETY: pointers to varlenas, which `words` keeps until they are copied.
    unsafe { array(elements, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, Layout::VARLENA) }
}

/// A `text[]` of strings.
pub fn of(strings: &[String]) -> DatumWithOid<'static> {
    texts(strings.iter().map(String::as_str))
}

/// A one-dimensional array as text, whatever its elements are.
pub fn literal<'a>(elements: impl Iterator<Item = &'a String>) -> String {
    let quoted = elements.map(|one| format!("\"{}\"", one.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// A `timestamptz[]`, from Postgres' microseconds.
pub fn timestamps(timestamps: impl Iterator<Item = i64>) -> DatumWithOid<'static> {
    let elements = timestamps.map(pg_sys::Datum::from).collect();
    // SAFETY: numbers of eight bytes, as a timestamp is.
    unsafe { array(elements, pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZARRAYOID, Layout::INT64) }
}

/// How elements are stored: `typlen`, `typbyval` and `typalign` of their type.
struct Layout(i32, bool, u8);

impl Layout {
    const VARLENA: Self = Self(-1, false, pg_sys::TYPALIGN_INT);
    const INT64: Self = Self(8, true, pg_sys::TYPALIGN_DOUBLE);
}

/// # Safety
///
/// The elements are of the type, which is laid out so; the array is of that type.
unsafe fn array(
    mut elements: Vec<pg_sys::Datum>,
    element_type: pg_sys::Oid,
    array_type: pg_sys::Oid,
    Layout(length, by_value, alignment): Layout,
) -> DatumWithOid<'static> {
    let count = i32::try_from(elements.len()).unwrap_or(i32::MAX);
    // SAFETY: the caller's promise; the elements are copied.
    let array = unsafe {
        pg_sys::construct_array(
            elements.as_mut_ptr(),
            count,
            element_type,
            length,
            by_value,
            alignment as std::ffi::c_char,
        )
    };
    // SAFETY: an array of that type, just made, in memory that the current statement keeps.
    unsafe { DatumWithOid::new(pg_sys::Datum::from(array), array_type) }
}
