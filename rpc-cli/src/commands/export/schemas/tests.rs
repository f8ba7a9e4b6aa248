use serde_json::json;

use super::*;

fn ty(rust: &str, schema: Option<Value>) -> TypeInfo {
    let info = json!({ "rust": rust, "schema": schema.map(|it| it.to_string()) });
    serde_json::from_value(info).expect("a type")
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

#[test]
fn methods_share_the_schema_of_a_type_and_different_types_have_different_names() {
    let mut schemas = Schemas::new(Dialect::AsyncApi);
    let item =
        json!({ "title": "Item", "type": "object", "properties": { "id": { "type": "integer" } } });
    let inner = json!({ "type": "object", "properties": { "id": { "type": "integer" } } });
    let list =
        json!({ "type": "array", "items": { "$ref": "#/$defs/Item" }, "$defs": { "Item": inner } });
    assert_eq!(
        schemas.of(&ty("Item", Some(item.clone()))),
        reference("Item")
    );
    assert_eq!(schemas.of(&ty("Item", Some(item))), reference("Item"));
    assert_eq!(
        schemas.of(&ty("Vec<Item>", Some(list))),
        json!({ "type": "array", "items": reference("Item") })
    );
    let other = json!({ "title": "Item", "type": "string" });
    assert_eq!(schemas.of(&ty("Item", Some(other))), reference("Item_2"));
    let page = json!({ "type": "object" });
    assert_eq!(
        schemas.of(&ty("Page<Item>", Some(page))),
        reference("Page_Item")
    );
    let named = schemas.into_named();
    assert_eq!(named["Item"], inner);
    assert_eq!(named["Item_2"], json!({ "type": "string" }));
    assert_eq!(named.len(), 3);
}

/// Equal definitions that refer to different types are different types.
#[test]
fn the_types_that_a_type_refers_to_belong_to_it() {
    let mut schemas = Schemas::new(Dialect::AsyncApi);
    let list = |inner: &str| {
        json!({
            "$ref": "#/$defs/A",
            "$defs": { "A": { "items": { "$ref": "#/$defs/B" } }, "B": { "type": inner } },
        })
    };
    assert_eq!(
        schemas.of(&ty("Vec<A>", Some(list("string")))),
        reference("A")
    );
    assert_eq!(
        schemas.of(&ty("Vec<A>", Some(list("null")))),
        reference("A_2")
    );
    let named = schemas.into_named();
    assert_eq!(named["A"], json!({ "items": reference("B") }));
    assert_eq!(named["A_2"], json!({ "items": reference("B_2") }));
    assert_eq!(named["B_2"], json!({ "type": "null" }));
}

#[test]
fn recursive_types_refer_to_themselves_by_name() {
    let mut schemas = Schemas::new(Dialect::Draft202012);
    let node = json!({ "title": "Node", "properties": { "next": { "$ref": "#" } } });
    assert_eq!(
        schemas.of(&ty("Node", Some(node))),
        json!({ "$ref": "#/$defs/Node" })
    );
    let list = json!({ "type": "array", "items": { "$ref": "#" } });
    assert_eq!(
        schemas.of(&ty("Vec<Nest>", Some(list))),
        json!({ "$ref": "#/$defs/Root" })
    );
    let named = schemas.into_named();
    assert_eq!(
        named["Node"],
        json!({ "properties": { "next": { "$ref": "#/$defs/Node" } } })
    );
    assert_eq!(
        named["Root"],
        json!({ "type": "array", "items": { "$ref": "#/$defs/Root" } })
    );
}

#[test]
fn references_that_lead_nowhere_accept_every_value() {
    let mut schemas = Schemas::new(Dialect::AsyncApi);
    let schema = json!({ "properties": {
        "a": { "$ref": "https://example.com/schema", "title": "Far" },
        "b": { "$ref": "#/$defs/Gone" },
        "c": { "$ref": "#/properties/a" },
        "$ref": { "type": "string" },
    } });
    schemas.of(&ty("Item", Some(schema)));
    assert_eq!(
        schemas.into_named()["Item"],
        json!({ "properties": { "a": { "title": "Far" }, "b": {}, "c": {} }, "patternProperties": { "^\\$ref$": { "type": "string" } } })
    );
}

#[test]
fn asyncapi_has_the_keywords_of_draft_07() {
    let mut schema = json!({
        "$id": "https://example.com/x",
        "properties": {
            "tuple": { "prefixItems": [{ "type": "string" }], "items": false },
            "one": { "description": "One.", "$ref": "#/x" },
        },
        "dependentRequired": { "a": ["b"] },
        "unevaluatedProperties": false,
        "default": { "prefixItems": 1 },
    });
    let before = schema.clone();
    Dialect::AsyncApi.translate(&mut schema);
    assert_eq!(
        schema,
        json!({
            "properties": {
                "tuple": { "items": [{ "type": "string" }], "additionalItems": false },
                "one": { "description": "One.", "allOf": [{ "$ref": "#/x" }] },
            },
            "dependencies": { "a": ["b"] },
            "default": { "prefixItems": 1 },
        })
    );
    let mut kept = before.clone();
    Dialect::Draft202012.translate(&mut kept);
    assert_eq!(kept["properties"], before["properties"]);
}

#[test]
fn names_are_plain_and_unique() {
    assert_eq!(plain_name("Page<Vec<Item>, u8>"), "Page_Vec_Item_u8");
    assert_eq!(plain_name("größe"), "gr_e");
    assert_eq!(plain_name("é"), "_");
    assert_eq!(unique("a", |name| ["a", "a_2"].contains(&name)), "a_3");
}

#[test]
fn encoded_references_are_decoded() {
    let mut schemas = Schemas::new(Dialect::Draft202012);
    let schema = json!({ "$ref": "#/$defs/Page%3CItem%3E~1x", "$defs": { "Page<Item>/x": { "type": "null" } } });
    assert_eq!(
        schemas.of(&ty("Vec<u8>", Some(schema))),
        json!({ "$ref": "#/$defs/Page_Item_x" })
    );
}
