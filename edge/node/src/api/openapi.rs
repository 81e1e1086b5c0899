//! The description of the server API for machines: OpenAPI 3.1, made from the types that requests
//! are read into and results written from.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::error::ErrorBody;
use super::methods::Method;

/// The document, as text.
pub(super) fn document() -> String {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| serde_json::to_string_pretty(&made()).unwrap_or_default() + "\n");
    DOCUMENT.clone()
}

fn made() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<ErrorBody>();
    let mut paths = Map::new();
    for method in Method::ALL {
        let (request, result) = method.schemas(&mut generator);
        let answer = match method {
            Method::Batch => result.to_value(),
            _ => json!({
                "type": "object",
                "description": "Exactly one of both is there.",
                "properties": { "result": result, "error": error },
            }),
        };
        let operation = json!({
            "operationId": method.name(),
            "summary": method.summary(),
            "requestBody": {
                "required": true,
                "content": { "application/json": { "schema": request } },
            },
            "responses": {
                "200": {
                    "description": "The result or an error.",
                    "content": { "application/json": { "schema": answer } },
                },
                "400": { "description": "The body is no JSON." },
                "401": { "description": "The key is missing or not valid." },
                "413": { "description": "The body is too large." },
                "503": { "description": "The node stops." },
                "default": {
                    "description": "With X-Centrifugo-Error-Mode: transport, an error.",
                    "content": { "application/json": { "schema": error } },
                },
            },
        });
        paths.insert(
            format!("{}{}", super::PREFIX, method.name()),
            json!({ "post": operation }),
        );
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "GB6 server API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "For an instance's own backend. Every request names its instance by its key.",
        },
        "paths": paths,
        "security": [{ "header": [] }, { "authorization": [] }, { "query": [] }],
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "header": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "authorization": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`apikey KEY`",
                },
                "query": { "type": "apiKey", "in": "query", "name": "api_key" },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in a document.
    fn references(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    match value {
                        Value::String(to) if name == "$ref" => out.push(to.clone()),
                        value => references(value, out),
                    }
                }
            }
            Value::Array(array) => array.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }

    #[test]
    fn every_method_is_described_and_every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for method in Method::ALL {
            let post = &document["paths"][format!("/api/{}", method.name())]["post"];
            assert_eq!(post["operationId"], method.name());
            assert!(post["summary"].as_str().is_some_and(|s| s.ends_with('.')));
        }
        let mut all = Vec::new();
        references(&document, &mut all);
        assert!(all.len() > 2 * Method::ALL.len());
        for reference in all {
            let path = reference.strip_prefix('#').expect("a reference in here");
            assert!(document.pointer(path).is_some(), "{reference}");
        }
    }

    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        if committed != document() {
            let made = std::env::temp_dir().join("gb6-openapi.json");
            std::fs::write(&made, document()).unwrap();
            panic!(
                "docs/openapi.json is not what the code says: copy {}",
                made.display()
            );
        }
    }
}
