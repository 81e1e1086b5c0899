//! What is understood of URIs, and what is said of those that are not.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NONE: Option<u16> = None;

#[test]
fn every_part_is_taken_apart() {
    let text = "kafka://us%40er:p@ss/w%3ard@a:1,[::1]:2,c/pa%20th?x=1%262&y=z";
    let mut uri = Uri::parse(text).unwrap();
    assert_eq!(uri.scheme, "kafka");
    let login = uri.login().unwrap();
    assert_eq!(login.user, "us@er");
    let password = login.password.clone().unwrap().read().unwrap();
    assert_eq!(password.reveal(), "p@ss/w:rd");
    let hosts = uri.addresses(Some(9)).unwrap();
    let hosts: Vec<String> = hosts.iter().map(Address::to_string).collect();
    assert_eq!(hosts, ["a:1", "[::1]:2", "c:9"]);
    assert_eq!(uri.path, "pa th");
    assert_eq!(uri.options.take("x").as_deref(), Some("1&2"));
    assert_eq!(uri.options.take("y").as_deref(), Some("z"));
    let shown = format!("{login:?} {uri:?}");
    assert!(!shown.contains("ss/w"), "{shown}");
    uri.options.end().unwrap();
    let bare = Uri::parse("redis://h").unwrap();
    assert_eq!((bare.path.as_str(), bare.user.as_str()), ("", ""));
}

#[test]
fn bad_uris_are_told_without_what_may_be_a_password() {
    let long = format!("a://{}", "x".repeat(URI_BYTES_MAX));
    for (text, says) in [
        ("", "no ://"),
        ("hush", "no ://"),
        ("a://u:hush%zz@h", "%25"),
        ("a://u:hush%ff@h", "UTF-8"),
        ("a://u:hu?sh=x@h", "%3F"),
        ("a://u:x@h?hush", "no value"),
        ("a://u:x@h?a=1&a=hush", "twice"),
        (&long, "longer"),
    ] {
        let error = Uri::parse(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
        let kept = text.contains("?hush") || !error.contains("hush");
        assert!(kept && !error.contains('\n'), "{error}");
    }
    let many: String = (0..=OPTIONS_MAX).map(|n| format!("&o{n}=1")).collect();
    assert!(Options::parse(&many).unwrap_err().contains("more than 64"));
    let mut two = Uri::parse("a://u:hush@h?password_file=/x").unwrap();
    let error = two.login().unwrap_err();
    assert!(error.contains("both") && !error.contains("hush"), "{error}");
}

#[test]
fn hosts_are_checked() {
    for text in [
        "", ",", "a", "a:", "a:0", "a:65536", "a:+1", "a b:1", "a:1,", "::1:2", "[::1]2", "[::1:2",
        "a:1,a:1", "ä:1", "a:1/", "[]:1",
    ] {
        addresses(text, NONE).expect_err(text);
    }
    assert_eq!(addresses("a_b.c-d:65535", NONE).unwrap()[0].port, 65535);
    assert_eq!(addresses("[fd00::1]", Some(7)).unwrap()[0].host, "fd00::1");
    let many: Vec<String> = (1..=33).map(|n| format!("a:{n}")).collect();
    let error = addresses(&many.join(","), NONE).unwrap_err();
    assert!(error.contains("more than 32"), "{error}");
}

#[test]
fn options_have_types_and_bounds() {
    let of = |query: &str| Options::parse(query).unwrap();
    assert_eq!(of("n=15").number("n", 1..=15), Ok(Some(15)));
    assert_eq!(of("").number("n", 1..=15), Ok(None));
    let wrong = of("n=16").number("n", 1..=15).unwrap_err();
    assert_eq!(wrong, "n=16 is not a number from 1 to 15");
    assert_eq!(
        of("t=20").millis("t", 1..=99),
        Ok(Some(Duration::from_millis(20)))
    );
    assert_eq!(of("f=true").flag("f"), Ok(Some(true)));
    let wrong = of("f=1").flag("f").unwrap_err();
    assert_eq!(wrong, "f=1: it is true or false");
    assert_eq!(of("c=b").choice("c", &[("a", 1), ("b", 2)]), Ok(Some(2)));
    assert_eq!(of("p=%2Fa").path("p"), Ok(Some("/a".into())));
    assert!(of("p=").path("p").unwrap_err().contains("names no file"));
    assert_eq!(of("w=a-b").name("w", 3, "-"), Ok(Some("a-b".to_owned())));
    for bad in ["w=", "w=a.b", "w=abcd"] {
        assert!(of(bad).name("w", 3, "-").is_err(), "{bad}");
    }
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(7200));
    assert_eq!(of("d=2h").duration("d", least..=most), Ok(Some(most)));
    for bad in [
        "d=",
        "d=5",
        "d=s",
        "d=3h",
        "d=1ms",
        "d=99999999999999999999s",
    ] {
        assert!(of(bad).duration("d", least..=most).is_err(), "{bad}");
    }
}

#[test]
fn what_nobody_asks_for_is_an_error_that_names_the_others() {
    let mut options = Options::parse("c=1&a=1").unwrap();
    assert!(options.has("c"));
    for name in ["a", "b", "d"] {
        options.take(name);
    }
    let error = options.end().unwrap_err();
    assert_eq!(error, "there is no option \"c\"; there are a, b and d");
}

#[test]
fn passwords_are_read_from_files_when_they_are_asked_for() {
    let name = format!("gb6-uri-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let password = Password::File(path.clone());
    let missing = password.read().unwrap_err();
    assert!(missing.contains(&path.display().to_string()), "{missing}");
    let longest = "x".repeat(PASSWORD_BYTES_MAX);
    for (text, is) in [
        ("hush\n", Some("hush")),
        (" hu sh \r\n", Some(" hu sh ")),
        (&longest, Some(longest.as_str())),
        ("\n", None),
        ("", None),
        (&format!("{longest}x"), None),
        (&"x".repeat(3 * PASSWORD_BYTES_MAX), None),
    ] {
        std::fs::write(&path, text).unwrap();
        let read = password.read();
        assert_eq!(read.as_ref().ok().map(Secret::reveal), is);
        if let Err(error) = read {
            assert!(error.contains("holds no password"), "{error}");
        }
    }
    std::fs::remove_file(&path).unwrap();
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(a://)?[a-z0-9:/@,?&=%\\[\\]. é]{0,60}") {
        if let Ok(mut uri) = Uri::parse(&text) {
            let _ = uri.login();
            if let Ok(addresses) = uri.addresses(Some(1)) {
                let shown: Vec<String> = addresses.iter().map(Address::to_string).collect();
                prop_assert_eq!(super::addresses(&shown.join(","), NONE), Ok(addresses));
            }
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(text in any::<String>()) {
        let encoded: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
        prop_assert_eq!(decoded(&encoded), Ok(text));
    }
}
