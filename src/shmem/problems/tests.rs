//! What is news, and how many problems fit.

use super::*;
use crate::error::{Error, Report};

fn problem(table: u32, text: &str) -> Problem {
    let table = pg_sys::Oid::from(table);
    let code = PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION;
    let error = Error::Caught(Report { code, message: text.into(), detail: None, hint: None });
    let place = Place::JobTable { table, part: table };
    Problem::new(place, "settle jobs", &error)
}

const DATABASE: pg_sys::Oid = pg_sys::Oid::INVALID;

/// A boxed table, because it is large for a test's stack.
fn empty() -> Box<ProblemTable> {
    Box::default()
}

#[test]
fn each_problem_is_news_by_itself_and_only_once() {
    let mut shared = empty();
    let met = |shared: &mut ProblemTable, table, text| shared.meet(DATABASE, &problem(table, text), 1);
    assert_eq!(met(&mut shared, 1, "a"), Some(true));
    assert_eq!(met(&mut shared, 1, "a"), Some(false));
    assert_eq!(met(&mut shared, 2, "a"), Some(true));
    assert_eq!(met(&mut shared, 1, "a"), Some(false));
    assert_eq!(shared.of(DATABASE).map(|known| known.rounds).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn a_problem_that_is_over_and_comes_back_is_news() {
    let mut shared = empty();
    shared.meet(DATABASE, &problem(1, "a"), 1);
    shared.end(DATABASE, &[], |place| place == Place::Flush);
    assert_eq!(shared.meet(DATABASE, &problem(1, "a"), 2), Some(false), "a flush did not look at it");
    shared.end(DATABASE, &[], |_| true);
    assert_eq!(shared.meet(DATABASE, &problem(1, "a"), 3), Some(true));
    assert_eq!(shared.of(DATABASE).next().map(|known| (known.since, known.rounds)), Some((3, 1)));
}

#[test]
fn a_number_that_changes_is_no_news() {
    let mut shared = empty();
    let locked = |jobs| Problem::of_locked_jobs(pg_sys::Oid::from(1), "public.jobs", jobs);
    assert_eq!(shared.meet(DATABASE, &locked(3), 1), Some(true));
    assert_eq!(shared.meet(DATABASE, &locked(4), 600_000_000), Some(false));
    let text = shared.of(DATABASE).next().map(|known| known.message()).unwrap();
    assert!(text.ends_with("locked by other sessions: 4"), "{text}");
}

#[test]
fn one_database_leaves_room_for_the_others() {
    let mut shared = empty();
    let told = (0..1_000).filter(|table| shared.meet(DATABASE, &problem(*table, "a"), 1).is_some()).count();
    assert_eq!(told, LIMIT - 1);
    assert_eq!(shared.meet(DATABASE, &Problem::of_others(745), 1), Some(true));
    assert_eq!(shared.meet(pg_sys::Oid::from(5), &problem(1, "a"), 1), Some(true));
    shared.end(DATABASE, &[], |_| true);
    assert_eq!(
        shared.meet(DATABASE, &problem(5_000, "a"), 2),
        Some(true),
        "in the place of one that is over"
    );
    assert_eq!(shared.of(DATABASE).count(), LIMIT);
}

#[test]
fn a_long_text_is_cut_between_characters_and_its_reason_is_told_apart() {
    let mut shared = empty();
    shared.meet(DATABASE, &problem(1, &"ä".repeat(1_000)), 1);
    let known = shared.of(DATABASE).next().map(|known| *known).unwrap();
    assert!(known.message().starts_with("could not settle jobs: ä") && known.message().len() > TEXT - 2);
    assert!(known.reason().starts_with("ä") && !known.reason().contains('\u{fffd}'));
}
