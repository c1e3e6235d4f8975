use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Filter {
    text.parse().unwrap()
}

fn wrong(text: &str) -> FilterError {
    text.parse::<Filter>().unwrap_err()
}

#[test]
fn what_the_specification_shows_is_read() {
    let filter = read(
        "state:suspended batch:B-0042 firmware:<1.4.2 seen:>2d expires:<30d refused:>0 tag:x online:yes text",
    );
    let is: Vec<_> = filter.terms.iter().map(|term| term.is.clone()).collect();
    assert_eq!(
        is,
        [
            Is::State(vec![DeviceState::Suspended]),
            Is::Batch("B-0042".parse().unwrap()),
            Is::Firmware(Some((Compare::Less, "1.4.2".parse().unwrap()))),
            Is::Seen(Age::More(2 * 86_400)),
            Is::Expires(Age::Less(30 * 86_400)),
            Is::Refused(Compare::More, 0),
            Is::Tag("x".to_owned()),
            Is::Online(true),
            Is::Text("text".to_owned()),
        ]
    );
    assert!(filter.terms.iter().all(|term| !term.not));
}

#[test]
fn there_are_two_ways_to_say_not() {
    let not = Term { not: true, is: Is::State(vec![DeviceState::Active]) };
    assert_eq!(read("state!=active").terms, std::slice::from_ref(&not));
    assert_eq!(read("-state:active").terms, [not]);
    assert!(!read("-state!=active").terms[0].not, "not unequal is equal");
    assert!(read("-MU-0001").terms[0].not);
    assert_eq!(read("state!=active").to_string(), "-state:active");
}

#[test]
fn the_words_of_others_are_read_and_ours_written() {
    for (theirs, ours) in [
        ("state:disabled", "state:suspended"),
        ("state:Blocked", "state:suspended"),
        ("state:pending", "state:registered"),
        ("disabled", "state:suspended"),
        ("quarantined", "state:quarantined"),
        ("\"quarantined\"", "\"quarantined\""),
        ("thing:MU-1", "serial:mu-1"),
        ("device:MU-1", "serial:mu-1"),
        ("client:yes", "online:yes"),
        ("session:no", "online:no"),
        ("STATE:active", "state:active"),
        ("state:active,suspended,active", "state:active,suspended"),
        ("expires:<2w", "expires:<14d"),
        ("expires:<=90m", "expires:<90m"),
        ("seen:never", "seen:never"),
        ("refused:=3", "refused:3"),
        ("product:\"TH 2\"", "product:\"TH 2\""),
        ("tag:\"Line two\"", "tag:\"line two\""),
        ("MU-0001", "mu-0001"),
        ("\"a:b\"", "\"a:b\""),
        ("\"-a\"", "\"-a\""),
        ("  ", ""),
    ] {
        assert_eq!(read(theirs).to_string(), ours, "{theirs}");
        assert_eq!(read(ours), read(theirs), "{theirs}");
    }
}

#[test]
fn an_error_names_the_part_and_what_is_possible() {
    let error = wrong("batch:B-1 state:gone");
    assert_eq!((&*error.token, error.at), ("state:gone", 10));
    assert!(error.why.contains("gone"), "{error}");
    assert!(error.possible.contains("quarantined"), "{error}");
    let error = wrong("colour:red");
    assert!(error.why.contains("colour") && error.possible.contains("firmware"), "{error}");
    for text in [
        "batch:",
        "batch:a/b",
        "state:",
        "state:active,",
        "seen:2d",
        "seen:>2",
        "seen:>2fortnights",
        "seen:>0s",
        "expires:<99999999999999999999y",
        "refused:many",
        "refused:>-1",
        "online:maybe",
        "firmware:<new",
        "firmware:1..2",
        "product:\"TH 2",
        "a\"b",
        "\"\"",
        "-",
        "a\u{7}b",
        "tag:\" \"",
    ] {
        let error = wrong(text);
        assert!(!error.why.is_empty() && !error.possible.is_empty(), "{text}");
        assert!(text[error.at..].starts_with(&error.token), "{text}");
    }
    assert!(wrong(&"a ".repeat(17)).why.contains("too many"));
    assert!(wrong(&"x".repeat(FILTER_MAX + 1)).possible.contains("512"));
    assert!(wrong(&format!("tag:{}", "x".repeat(WORD_MAX + 1))).why.contains("too long"));
}

#[test]
fn versions_are_ordered_by_number() {
    let versions =
        ["0.9", "1.0.0-alpha", "1.0.0-rc1", "1.0.0", "1.4", "1.4.2", "1.4.10", "1.10.0", "2", "10.0"];
    let keys: Vec<_> = versions.iter().map(|text| text.parse::<Version>().unwrap().key()).collect();
    assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    let key = |text: &str| text.parse::<Version>().unwrap().key();
    assert_eq!(key("1.4"), key("1.4.0"));
    for wrong in ["", "v1", "1.", "1.2.3.4.5", "1-", "4294967296", "1.4 2", "1.4-ü"] {
        assert!(wrong.parse::<Version>().is_err(), "{wrong:?}");
    }
}

#[test]
fn what_may_be_dropped_is_each_term_in_turn() {
    let filter = read("state:active online:yes");
    let rest: Vec<_> =
        filter.without_one().map(|(term, rest)| (term.to_string(), rest.to_string())).collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(rest, [pair("state:active", "online:yes"), pair("online:yes", "state:active")]);
}

proptest! {
    /// Whatever is read is written so that the same is read again; and nothing panics.
    #[test]
    fn what_is_read_is_written_and_read_again(text in "[-!=:<>\" a-zA-Z0-9.,ü]{0,40}") {
        if let Ok(filter) = text.parse::<Filter>() {
            let said = filter.to_string();
            prop_assert_eq!(said.parse::<Filter>().unwrap(), filter);
        }
    }
}
