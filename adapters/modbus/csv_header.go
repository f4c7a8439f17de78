package modbus

import (
	"fmt"
	"strings"
)

// columnOf returns the option that a column holds, by its name or by what lists
// of makers call it; "" is one that is passed over, "?" one that is not known.
func columnOf(header string) string {
	header = strings.ToLower(strings.TrimSpace(header))
	if header == "" || strings.HasPrefix(header, "#") && columnOf(header[1:]) == "?" {
		return ""
	}
	squashed := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '%' {
			return r
		}
		return -1
	}, header)
	switch squashed {
	case "name", "tag", "tagname", "signal", "variable", "variablename", "parameter", "parametername", "point", "pointname", "registername", "label":
		return "name"
	case "table", "area", "registertype", "regtype", "objecttype":
		return "table"
	case "function", "fc", "functioncode", "readfunction", "functioncoderead":
		return "function"
	case "address", "addr", "register", "reg", "registeraddress", "regaddress", "regaddr", "modbusaddress", "startaddress", "addressdec", "registerdec", "decaddress":
		return "address"
	case "addresshex", "hexaddress", "registerhex", "hex", "addrhex", "registeraddresshex", "modbusaddresshex":
		return "address_hex"
	case "modicon", "modiconaddress", "plcaddress", "4xxxx", "address4xxxx", "register4xxxx", "4xxxxx", "address4xxxxx", "register4xxxxx":
		return "modicon"
	case "type", "datatype", "format", "dataformat", "valuetype":
		return "type"
	case "description", "desc", "doc", "comment", "comments", "remark", "remarks", "note", "notes", "meaning":
		return "doc"
	}
	return valueColumn(squashed)
}

// valueColumn goes on with the columns that say what is made of the registers.
func valueColumn(squashed string) string {
	switch squashed {
	case "unit", "units", "uom", "engineeringunit", "engunit", "unitofmeasure":
		return "unit"
	case "scale", "factor", "scalefactor", "scaling", "multiplier", "resolution", "coefficient":
		return "scale"
	case "divisor", "divider":
		return "divisor"
	case "gain":
		return "gain"
	case "offset", "group", "order", "count", "enum", "invalid", "min", "max", "bit", "width", "counter", "deadband", "every", "access":
		return squashed
	case "byteorder", "endian", "endianness":
		return "order"
	case "elements", "arraysize":
		return "count"
	case "size", "length", "len", "words", "registers", "regs", "quantity", "numberofregisters", "noofregisters", "registercount":
		return "size"
	case "bitnumber", "bitno", "bitposition", "startbit":
		return "bit"
	case "bits", "bitlength", "bitcount":
		return "width"
	case "scaleat":
		return "scale_at"
	case "enumeration", "states":
		return "enum"
	case "novalue", "notavailable", "sentinel":
		return "invalid"
	case "minimum":
		return "min"
	case "maximum":
		return "max"
	case "deadbandpercent", "deadband%":
		return "deadband_percent"
	case "interval", "period", "pollinterval":
		return "every"
	case "rw", "readwrite", "accessrights", "permission":
		return "access"
	}
	return "?"
}

const columnHint = "known columns: name, table or function, address, address (hex) or modicon, type, count, size, order, bit, width, scale or divisor, " +
	"offset, scale_at, unit, enum, invalid, min, max, counter, deadband, deadband_percent, group, every, access, description; " +
	"begin the name of a column with # to have it passed over"

// header takes the row that names the columns. It is false when the rows below
// cannot be read.
func (l *registerList) header(cells []listCell) bool {
	l.columns = make([]string, len(cells))
	seen := make(map[string]string)
	for i, c := range cells {
		column := columnOf(c.text)
		first, twice := seen[column]
		switch {
		case column == "":
			continue
		case column == "?":
			l.fault(c, fmt.Sprintf("column %q is not known", c.text), columnHint)
			continue
		case column == "gain":
			l.fault(c, fmt.Sprintf("column %q is a factor with some makers and a divisor with others", c.text),
				"name it scale when values are multiplied by it, divisor when they are divided")
			continue
		case twice:
			l.fault(c, fmt.Sprintf("column %q holds the %s, and so does column %q", c.text, column, first),
				"begin the name of one of them with # to have it passed over")
			continue
		}
		seen[column], l.columns[i] = c.text, column
	}
	_, name := seen["name"]
	if !name {
		l.fault(cells[0], "no column holds the names of the values", "the first row names the columns: call one name")
	}
	_, plain := seen["address"]
	_, hex := seen["address_hex"]
	_, old := seen["modicon"]
	if !plain && !hex && !old {
		l.fault(cells[0], "no column holds the addresses",
			"call it address for those on the line, from 0; address (hex); or modicon for register numbers such as 40001")
	}
	return name && (plain || hex || old)
}
