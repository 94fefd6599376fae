use super::*;

const JAVA: &str =
    "java.io.IOException: order 17 is gone\n\tat shop.Orders.load(Orders.java:31)\n\tat shop.Main.run(Main.java:9)";

fn of(class: &str, stack: &str) -> String {
    fingerprint(class, "message", stack, None)
}

#[test]
fn dl_13_a_fingerprint_has_16_digits_and_never_changes() {
    assert_eq!(fingerprint("Timeout", "after 30 s", "", None), "413b9e0132898eeb");
    assert_eq!(of("IOException", JAVA).len(), 16);
    assert_eq!(fingerprint("", "", "", None).len(), 16);
}

#[test]
fn dl_13_numbers_lines_and_ids_do_not_matter() {
    let other = JAVA.replace("31", "4711").replace("order 17", "order 18");
    assert_eq!(of("IOException", JAVA), of("IOException", &other));
    let message = |message| fingerprint("NotFound", message, "", None);
    assert_eq!(message("order 17 at 0x7ffd12"), message("order 4 at 0xdeadbeef"));
    assert_eq!(
        message("no user f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        message("no user 9c858901-face-dead-81fe-4c455b099bc9")
    );
    assert_eq!(message("worker7 failed"), message("worker12 failed"));
}

#[test]
fn dl_13_class_and_frames_matter() {
    let base = of("IOException", JAVA);
    assert_ne!(base, of("SqlException", JAVA));
    assert_ne!(base, of("IOException", &JAVA.replace("shop.Orders", "shop.Users")));
    assert_ne!(fingerprint("ab", "c", "", None), fingerprint("a", "bc", "", None), "the parts are told apart");
    assert_ne!(fingerprint("a", "decade", "", None), fingerprint("a", "facade", "", None), "words are no ids");
}

#[test]
fn dl_13_only_the_frames_nearest_to_the_failure_count() {
    let frames = |tail: &str| {
        let top: String = (0..6).map(|index| format!("at top{}\n", ["a", "b", "c", "d", "e", "f"][index])).collect();
        of("E", &format!("{top}at {tail}"))
    };
    assert_eq!(frames("main"), frames("elsewhere"));
    let python = |caller: &str, failing: &str| {
        let rest: String = ["p", "q", "r"].map(|name| format!("  File \"{name}.py\", line 1\n    {name}()\n")).concat();
        of("E", &format!("{REVERSED}:\n  File \"{caller}.py\", line 3\n{rest}  File \"{failing}.py\"\nValueError: bob"))
    };
    assert_eq!(python("main", "load"), python("other", "load"), "the top is at the end");
    assert_ne!(python("main", "load"), python("main", "store"));
    assert_eq!(python("main", "load"), python("main", "load").replace("bob", "eve"));
}

#[test]
fn dl_13_what_the_client_gives_is_taken() {
    assert_eq!(fingerprint("E", "m", "s", Some("mine-17")), "mine-17");
    assert_eq!(fingerprint("E", "m", "", Some("")), fingerprint("E", "m", "", None), "nothing is not given");
    let long = "é".repeat(200);
    assert_eq!(fingerprint("E", "m", "s", Some(&long)), "é".repeat(127), "cut between characters");
}
