//! JSON objects that reports print.

use serde_json::Value;

/// The elements of an array.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}"))
}

pub fn integer(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no unsigned integer: {value}"))
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Fails unless these, in any order, are all of the object's keys, and the README names them.
pub fn assert_keys(object: &Value, expected: &[&str]) {
    let readme = std::fs::read_to_string(super::root().join("README.md")).expect("the README");
    for key in expected {
        assert!(readme.contains(&format!("`{key}`")), "the README does not name {key}");
    }
    let object = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
