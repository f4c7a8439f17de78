package config

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"github.com/waystation-iot/waystation/gateway"
)

// object is a JSON object of the schema.
type object = map[string]any

// Schema returns the JSON schema (draft 2020-12) of a configuration file, for
// editors. It ends with a line break.
func Schema(adapters []gateway.Adapter) []byte {
	props, defs := object{}, object{}
	for _, s := range defaults().sections() {
		o := mappingSchema(optionsOf(structOf(s.into)), s.name, topRequired(), 0)
		o["description"] = s.doc
		props[s.name] = o
	}
	props["sources"] = memberSchema(adapters, roleSource, defs)
	props["sinks"] = memberSchema(adapters, roleSink, defs)
	b, err := json.MarshalIndent(object{
		"$schema":              "https://json-schema.org/draft/2020-12/schema",
		"title":                "waystation configuration",
		"type":                 "object",
		"properties":           props,
		"patternProperties":    object{"^x-": true},
		"additionalProperties": false,
		"required":             []string{"gateway", "sinks", "sources"},
		"$defs":                defs,
	}, "", "  ")
	if err != nil { // maps, lists and text only: cannot happen
		return []byte("true\n")
	}
	return append(b, '\n')
}

// memberSchema is the list of sources or sinks: the type chooses the options.
func memberSchema(adapters []gateway.Adapter, r role, defs object) object {
	var choose []any
	for _, a := range sorted(adapters) {
		for _, h := range halves(&a) {
			if h.role != r {
				continue
			}
			def := mappingSchema(h.options(), "", h.required(), 0)
			def["description"] = a.Doc
			def["properties"].(object)["type"] = object{"const": a.Type, "description": a.Doc}
			defs[string(r)+"-"+a.Type] = def
			fileSchemas(&h, defs)
			choose = append(choose, object{
				"if":   object{"properties": object{"type": object{"const": a.Type}}, "required": []string{"type"}},
				"then": object{"$ref": "#/$defs/" + string(r) + "-" + a.Type},
			})
		}
	}
	item := object{
		"type":       "object",
		"required":   []string{"name", "type"},
		"properties": object{"type": object{"enum": typesOf(adapters, r)}},
	}
	if len(choose) > 0 {
		item["allOf"] = choose
	}
	return object{"type": "array", "minItems": 1, "items": item}
}

// mappingSchema is an object with the given options and no others.
func mappingSchema(opts []option, path string, required map[string]bool, depth int) object {
	props, need, either := object{}, map[string]bool{}, []any{}
	for i := range opts {
		o := &opts[i]
		here := join(path, o.name)
		s := o.schema(here, required, depth)
		if o.doc != "" {
			s["description"] = o.doc
		}
		props[o.name] = s
		if needed(required, here) && o.or != "" {
			either = append(either, object{"anyOf": []any{object{"required": []string{o.name}}, object{"required": []string{o.or}}}})
		} else if needed(required, here) {
			need[o.name] = true
		}
	}
	out := object{"type": "object", "properties": props, "additionalProperties": false}
	if len(either) > 0 {
		out["allOf"] = either
	}
	if len(need) > 0 {
		out["required"] = slices.Sorted(maps.Keys(need))
	}
	return out
}

// schema describes the value of one option.
func (o *option) schema(path string, required map[string]bool, depth int) object {
	if o.file != "" {
		return o.fileSchema()
	}
	if kids := o.kids(); kids != nil && depth < maxStructs {
		s := mappingSchema(kids, path, required, depth+1)
		for t := o.typ; t.Kind() != reflect.Struct; t = t.Elem() {
			switch t.Kind() {
			case reflect.Slice:
				s = object{"type": "array", "items": s}
			case reflect.Map:
				s = object{"type": "object", "additionalProperties": s}
			}
		}
		return s
	}
	s := typeSchema(o.typ)
	if len(o.enum) > 0 {
		if o.typ.Kind() == reflect.Slice {
			s["items"] = object{"enum": o.enum}
		} else if o.typ.Kind() == reflect.String {
			s = object{"enum": o.enum}
		}
	}
	switch v := o.val; {
	case o.typ == secretType() || o.val.IsZero():
	case o.typ == durationType(), o.typ == sizeType():
		s["default"] = yamlText(v)
	case v.Kind() == reflect.String, v.Kind() == reflect.Bool, v.CanInt(), v.CanUint(), v.CanFloat():
		s["default"] = v.Interface()
	}
	return s
}

// typeSchema describes a type that holds no options of its own.
func typeSchema(t reflect.Type) object {
	switch t {
	case durationType():
		return object{"type": "string", "pattern": `^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$`}
	case sizeType():
		return object{"type": []string{"string", "number"}, "pattern": `^\s*[0-9]+(\.[0-9]+)?\s*([KMGT]iB|[kMGT]?B)?\s*$`}
	case secretType():
		return object{"type": []string{"string", "number"}}
	}
	if isText(t) {
		return object{"type": []string{"string", "number"}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeSchema(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": typeSchema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": typeSchema(t.Elem())}
	case reflect.String:
		return object{"type": []string{"string", "number"}}
	}
	return wholeSchema(t)
}

// wholeSchema describes a whole number with its range.
func wholeSchema(t reflect.Type) object {
	s := object{"type": "integer"}
	bits := t.Bits()
	switch {
	case t.Kind() >= reflect.Uint:
		s["minimum"] = 0
		if bits < 64 {
			s["maximum"] = uint64(1)<<bits - 1
		}
	case bits < 64:
		s["minimum"], s["maximum"] = -(int64(1) << (bits - 1)), int64(1)<<(bits-1)-1
	}
	return s
}
