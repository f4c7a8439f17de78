package codec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
)

// validate checks doc against the keywords of JSON schema that
// docs/record.schema.json uses; an unknown keyword is a fault, so that none
// goes unchecked.
func validate(root, schema map[string]any, doc any, at string) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	for keyword, want := range schema {
		switch keyword {
		case "$schema", "$id", "title", "description", "$defs", "format", "additionalProperties", "examples":
		case "$ref":
			name := strings.TrimPrefix(want.(string), "#/$defs/")
			out = append(out, validate(root, root["$defs"].(map[string]any)[name].(map[string]any), doc, at)...)
		case "type":
			if !hasType(want, doc) {
				bad("is %T, want %v", doc, want)
			}
		case "const":
			if fmt.Sprint(doc) != fmt.Sprint(want) {
				bad("is %v, want %v", doc, want)
			}
		case "enum":
			found := false
			for _, w := range want.([]any) {
				found = found || reflect.DeepEqual(w, doc)
			}
			if !found {
				bad("is %v, want one of %v", doc, want)
			}
		case "pattern":
			if s, ok := doc.(string); ok && !regexp.MustCompile(want.(string)).MatchString(s) {
				bad("%q does not match %s", s, want)
			}
		case "required":
			for _, k := range want.([]any) {
				if m, ok := doc.(map[string]any); ok && m[k.(string)] == nil {
					if _, present := m[k.(string)]; !present {
						bad("has no %s", k)
					}
				}
			}
		case "properties":
			out = append(out, members(root, schema, doc, at)...)
		default:
			bad("unknown keyword %s", keyword)
		}
	}
	if _, ok := schema["properties"]; !ok {
		out = append(out, members(root, schema, doc, at)...)
	}
	return out
}

// members checks the members of an object against properties and
// additionalProperties.
func members(root, schema map[string]any, doc any, at string) []string {
	m, ok := doc.(map[string]any)
	if !ok {
		return nil
	}
	props, _ := schema["properties"].(map[string]any)
	var out []string
	for k, v := range m {
		if p, ok := props[k].(map[string]any); ok {
			out = append(out, validate(root, p, v, at+"."+k)...)
			continue
		}
		switch extra := schema["additionalProperties"].(type) {
		case bool:
			if !extra {
				out = append(out, at+": unexpected member "+k)
			}
		case map[string]any:
			out = append(out, validate(root, extra, v, at+"."+k)...)
		}
	}
	return out
}

func hasType(want, doc any) bool {
	if list, ok := want.([]any); ok {
		for _, w := range list {
			if hasType(w, doc) {
				return true
			}
		}
		return false
	}
	switch doc.(type) {
	case nil:
		return want == "null"
	case bool:
		return want == "boolean"
	case string:
		return want == "string"
	case json.Number, float64:
		return want == "number" || want == "integer"
	case map[string]any:
		return want == "object"
	}
	return want == "array"
}
