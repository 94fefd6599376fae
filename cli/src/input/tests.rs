use super::*;

fn read(text: &[u8], form: &InputForm, common: &Common) -> Vec<Result<InputRecord, (u64, String)>> {
    match Records::open(Box::new(text), form, common) {
        Err(bad) => vec![Err((bad.line, bad.what))],
        Ok(records) => records.map(|item| item.map_err(|bad| (bad.line, bad.what))).collect(),
    }
}

fn lines(separator: Option<&str>) -> InputForm {
    InputForm::Lines { separator: separator.map(|text| text.as_bytes().to_vec()) }
}

fn csv(key: Option<&str>, time: Option<&str>, value: CsvValue) -> InputForm {
    InputForm::Csv { key_column: key.map(str::to_owned), time_column: time.map(str::to_owned), value }
}

fn text(bytes: Option<&Bytes>) -> Option<&str> {
    bytes.map(|bytes| str::from_utf8(bytes).unwrap())
}

#[test]
fn each_line_is_a_record_and_the_last_end_of_line_adds_none() {
    let records = read(b"a\n\nb", &lines(None), &Common::default());
    let values: Vec<_> = records.iter().map(|record| text(record.as_ref().unwrap().value.as_ref()).unwrap()).collect();
    assert_eq!(values, ["a", "", "b"]);
    assert!(read(b"", &lines(None), &Common::default()).is_empty());
}

#[test]
fn a_separator_splits_at_its_first_place_and_its_absence_is_told_with_the_line() {
    let records = read(b"k::v::w\nbad\n::empty key", &lines(Some("::")), &Common::default());
    let first = records[0].as_ref().unwrap();
    assert_eq!((text(first.key.as_ref()), text(first.value.as_ref())), (Some("k"), Some("v::w")));
    let (line, what) = records[1].as_ref().unwrap_err();
    assert_eq!(*line, 2);
    assert!(what.contains("no separator \"::\""), "{what}");
    assert_eq!(text(records[2].as_ref().unwrap().key.as_ref()), Some(""));
}

#[test]
fn common_key_headers_and_tombstones_are_added() {
    let common = Common { key: Some("k".into()), headers: vec![("h".into(), "1".into())], tombstones: true };
    let records = read(b"v\n\n", &lines(None), &common);
    let first = records[0].as_ref().unwrap();
    assert_eq!(text(first.key.as_ref()), Some("k"));
    assert_eq!(first.headers, [("h".to_owned(), Bytes::from("1"))]);
    assert_eq!(records[1].as_ref().unwrap().value, None);
}

#[test]
fn ndjson_takes_texts_objects_bytes_nulls_headers_and_times() {
    let input = br#"{"key":"k","value":"text","headers":{"a":"1"},"timestamp":"2010-12-01T08:26:00Z"}

{"value":{"b":1, "a":[2]},"headers":[{"key":"x","value":"1"},{"key":"x","value_base64":"/w=="}],"timestamp_ms":5}
{"key_base64":"/w==","value":null,"topic":"t","partition":1,"offset":7,"epoch":0,"append_time_ms":1}
{"value":null,"value_base64":"AAE="}"#;
    let records: Vec<_> = read(input, &InputForm::Json, &Common::default()).into_iter().map(Result::unwrap).collect();
    assert_eq!(text(records[0].value.as_ref()), Some("text"));
    assert_eq!(records[0].timestamp_ms, Some(1_291_191_960_000));
    assert_eq!(records[0].headers, [("a".to_owned(), Bytes::from("1"))]);
    assert_eq!(text(records[1].value.as_ref()), Some(r#"{"b":1, "a":[2]}"#), "an object keeps its text");
    assert_eq!(records[1].headers[1], ("x".to_owned(), Bytes::from(vec![0xff])));
    assert_eq!(records[2].key.as_deref(), Some(&b"\xff"[..]));
    assert_eq!(records[2].value, None);
    assert_eq!(records[3].value.as_deref(), Some(&[0, 1][..]));
}

#[test]
fn broken_ndjson_is_told_with_its_line_and_the_next_line_is_read() {
    let input = b"{\"value\":1}\n{\"value\":\n{\"vallue\":1}\n{}\n\xff\n{\"value_base64\":\"*\"}\n{\"value\":2}\n";
    let records = read(input, &InputForm::Json, &Common::default());
    let bad: Vec<_> = records.iter().filter_map(|record| record.as_ref().err()).collect();
    assert_eq!(bad.iter().map(|bad| bad.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    assert!(bad[1].1.contains("vallue"), "{}", bad[1].1);
    assert!(bad[2].1.contains("no value"), "{}", bad[2].1);
    assert_eq!(records.iter().filter(|record| record.is_ok()).count(), 2);
}

#[test]
fn csv_rows_become_objects_in_the_order_of_the_columns() {
    let form = csv(Some("id"), Some("at"), CsvValue::Json);
    let records = read(b"z,id,at\n\"a,\"\"b\",7,2010-12-01 08:26:00\n", &form, &Common::default());
    let record = records[0].as_ref().unwrap();
    assert_eq!(text(record.key.as_ref()), Some("7"));
    assert_eq!(text(record.value.as_ref()), Some(r#"{"z":"a,\"b","id":"7","at":"2010-12-01 08:26:00"}"#));
    assert_eq!(record.timestamp_ms, Some(1_291_191_960_000));
}

#[test]
fn csv_rows_stay_lines_if_asked() {
    let form = csv(None, None, CsvValue::Line);
    let records = read(b"a,b\n\"x,1\",2\n", &form, &Common::default());
    assert_eq!(text(records[0].as_ref().unwrap().value.as_ref()), Some("\"x,1\",2"));
}

#[test]
fn broken_csv_is_told_with_its_line_and_the_next_row_is_read() {
    let form = csv(Some("id"), Some("at"), CsvValue::Json);
    let input = b"id,at\n1,2010-12-01\n2\n3,never\n\xff,2010-12-01\n5,2010-12-02\n";
    let records = read(input, &form, &Common::default());
    let bad: Vec<_> = records.iter().filter_map(|record| record.as_ref().err()).collect();
    assert_eq!(bad.iter().map(|bad| bad.0).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(bad[0].1, "1 fields, but the heading has 2");
    assert!(bad[1].1.contains("never"), "{}", bad[1].1);
    assert_eq!(records.iter().filter(|record| record.is_ok()).count(), 2);
}

#[test]
fn a_column_that_is_not_there_is_told_with_those_that_are() {
    let records = read(b"a,b\n1,2\n", &csv(Some("c"), None, CsvValue::Json), &Common::default());
    assert_eq!(records[0].as_ref().unwrap_err().1, "no column \"c\"; there are a, b");
}
