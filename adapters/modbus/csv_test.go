package modbus

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// soundList reads a list that must be sound.
func soundList(t *testing.T, text string) *Profile {
	t.Helper()
	p, err := parseCSV("dir/pump.csv", []byte(text))
	if err != nil {
		t.Fatalf("%v\nof %q", err, text)
	}
	return p
}

// oneRow reads the point of a list with one row.
func oneRow(t *testing.T, text string) Point {
	t.Helper()
	p := soundList(t, text)
	if len(p.Groups) != 1 || len(p.Groups[0].Points) != 1 {
		t.Fatalf("%+v", p.Groups)
	}
	return p.Groups[0].Points[0]
}

func TestListWithEveryColumn(t *testing.T) {
	p := soundList(t, `name,table,address,type,unit,scale,offset,group,every,order,count,enum,invalid,min,max,bit,width,counter,deadband,deadband_percent,scale_at,description
v,input,0x10,float32,V,0.1,-5,el,500ms,CDAB,2,,0xFFFFFFFF|-1,-10,1e3,,,no,0.5,2,30,"Volts, ""all"""
n,holding,7,uint32,kWh,,,sum,,,,,,,,,,yes,,,,
s,holding,9,uint16,,,,el,,,,0=off|1 = on at last,,,,4,3,,,,,
`)
	want := &Profile{Name: "pump", Groups: []Group{
		{Name: "el", Every: 500 * time.Millisecond, Points: []Point{
			{Name: "v", Table: "input", Address: 16, Type: "float32", Unit: "V", Scale: 0.1, Offset: -5, Order: "CDAB", Count: 2,
				Invalid: []string{"0xFFFFFFFF", "-1"}, Min: ptr(-10.0), Max: ptr(1000.0), Deadband: 0.5, Percent: 2, ScaleAt: ptr(30), Doc: `Volts, "all"`},
			{Name: "s", Table: "holding", Address: 9, Type: "uint16", Bit: ptr(4), Width: 3, Enum: map[string]string{"0": "off", "1": "on at last"}}}},
		{Name: "sum", Points: []Point{{Name: "n", Table: "holding", Address: 7, Type: "uint32", Unit: "kWh", Counter: true}}}}}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%+v", p)
	}
}

// TestListsOfTheField reads the same point as different tools write it.
func TestListsOfTheField(t *testing.T) {
	want := Point{Name: "t", Table: "holding", Address: 100, Type: "int16", Scale: 0.1, Unit: "°C"}
	for name, text := range map[string]string{
		"commas":          "name,table,address,type,scale,unit\nt,holding,100,int16,0.1,°C\n",
		"a BOM and CRLF":  "\uFEFFname,table,address,type,scale,unit\r\nt,holding,100,int16,0.1,°C\r\n",
		"semicolons":      "Name;Register Type;Register;Data Type;Factor;Units\nt;Holding Register;100;INT16;0,1;°C",
		"tabs":            "tag\ttable\taddr\ttype\tscale\tuom\nt\tHR\t100\ts16\t0,1\t°C\n",
		"ISO 8859-1":      "name;table;address;type;scale;unit\nt;holding;100;int16;0,1;\xB0C\n",
		"sep=":            "sep=;\nname;table;address;type;scale;unit\nt;holding;100;int16;0.1;°C\n",
		"quotes":          "\"name\",\"table\",\"address\",\"type\",\"scale\",\"unit\"\n\"t\",\"holding\",\"100\",\"int16\",\"0.1\",\"°C\"\n",
		"blanks":          " name , table , address , type , scale , unit \n t , holding , 100 , int16 , 0.1 , °C \n ,,,,,\n\n",
		"a fraction":      "name,table,address,type,scale,unit\nt,holding,100,int16,1/10,°C\n",
		"a divisor":       "name,table,address,type,divisor,unit\nt,holding,100,int16,10,°C\n",
		"a function":      "name,function code,address,type,scale,unit\nt,03,100,short,0.1,°C\n",
		"FC3":             "name,fc,address,type,scale,unit\nt,FC3,100,short,0.1,°C\n",
		"hex":             "name,table,address,type,scale,unit\nt,holding,0x64,int16,0.1,°C\n",
		"a hex column":    "name,table,Address (hex),type,scale,unit\nt,holding,0064,int16,0.1,°C\n",
		"both addresses":  "name,table,address,hex address,type,scale,unit\nt,holding,100,64,int16,0.1,°C\n",
		"modicon, five":   "name,modicon,type,scale,unit\nt,40101,int16,0.1,°C\n",
		"modicon, six":    "name,address (4xxxx),type,scale,unit\nt,400101,int16,0.1,°C\n",
		"modicon, both":   "name,table,modicon,type,scale,unit\nt,4x,40101,int16,0.1,°C\n",
		"comments":        "# Pump \"3\n\nname,table,address,type,scale,unit\n# half a quote \"\nt,holding,100,int16,0.1,°C\n#,,,,\n",
		"#":               "#,name,table,address,type,scale,unit\n1,t,holding,100,int16,0.1,°C\n",
		"passed over":     "name,table,address,#page,type,,scale,unit\nt,holding,100,17,int16,,0.1,°C\n",
		"dashes for none": "name,table,address,type,scale,unit,bit,invalid\nt,holding,100,int16,0.1,°C,-,-\n",
		"empty tabs":      "name\t\t\ttable\taddress\ttype\tbit\twidth\tscale\tunit\nt\t\t\tholding\t100\tint16\t\t\t0.1\t°C\n",
		"rights":          "name,table,address,type,scale,unit,access\nt,holding,100,int16,0.1,°C,R/W\nreset,holding,1,uint16,,,W\n",
		"a size":          "name,table,address,size,type,scale,unit\nt,holding,100,1,int16,0.1,°C\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got := oneRow(t, text); !reflect.DeepEqual(got, want) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestTextOfSeveralLines: a cell in quotes may hold lines that look like comments.
func TestTextOfSeveralLines(t *testing.T) {
	p := soundList(t, "name,address,description\na,1,\"one\n# two\n\"\"three\"\"\"\n# four \"\nb,2,x\n")
	if q := p.Groups[0].Points; len(q) != 2 || q[0].Doc != "one\n# two\n\"three\"" || q[1].Doc != "x" {
		t.Errorf("%+v", q)
	}
}

// TestListsOfThePage reads what docs/modbus-profiles.md shows.
func TestListsOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/modbus-profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Lists of registers (CSV)")
	var text []string
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			text = append(text, code)
		}
	}
	if p := soundList(t, strings.Join(text, "")); len(p.Groups) != 3 {
		t.Errorf("%+v", p)
	}
	// Every column that the page names is one.
	for _, row := range strings.Split(section, "\n") {
		cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		for i, name := range strings.Split(cell, "`") {
			if strings.HasPrefix(row, "| `") && i%2 == 1 && columnOf(name) == "?" {
				t.Errorf("column %q is not known", name)
			}
		}
	}
}

func TestWordsOfLists(t *testing.T) {
	for cell, want := range map[string]Point{
		"a,30001,u32":  {Table: "input", Type: "uint32"},
		"a,10002,":     {Table: "discrete", Address: 1},
		"a,3,bool":     {Table: "coil", Address: 2, Type: "bool"},
		"a,40001,REAL": {Table: "holding", Type: "float32"},
		"a,40001,Unsigned 32-bit": {
			Table: "holding", Type: "uint32"},
		"a,40001,bitfield": {Table: "holding", Type: "bits16"},
	} {
		want.Name = "a"
		if got := oneRow(t, "name,modicon,type\n"+cell); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", cell, got)
		}
	}
	if got := oneRow(t, "name,address,type,size,order\nSerial No. (äß),5,ascii,8,2143"); !reflect.DeepEqual(got,
		Point{Name: "Serial_No._aess", Address: 5, Type: "string", Count: 8, Order: "BADC", Doc: "Serial No. (äß)"}) {
		t.Errorf("%+v", got)
	}
	if got := oneRow(t, "name,address,deadband,counter\na,5,2%,x"); got.Percent != 2 || got.Deadband != 0 || !got.Counter {
		t.Errorf("%+v", got)
	}
	if got := oneRow(t, "name;address;type;enum;invalid;min\na;5;int16;\"0=off;1:on|2=x\";\"1|2 3\";\n").Enum; len(got) != 3 || got["1"] != "on" {
		t.Error(got)
	}
	if got := oneRow(t, "name;address;type;invalid\na;5;float32;-9999,5|1\n").Invalid; fmt.Sprint(got) != "[-9999.5 1]" {
		t.Error(got)
	}
	if got := oneRow(t, "name,function,address\nq,0x18,5").Table; got != "fifo" {
		t.Error(got)
	}
	if got := soundList(t, "name,address\na,1").Groups[0].Name; got != "data" {
		t.Error(got)
	}
}

// TestFaultsOfLists says for each list what is wrong with it and where.
func TestFaultsOfLists(t *testing.T) {
	const head = "name,address,type,bit,scale,every,group\n"
	for text, want := range map[string]string{
		"":                                            "1:1: the list has no rows",
		"# only this\n":                               "1:1: the list has no rows",
		"name,address\n":                              "1:1: the list has no rows",
		"a,1\n":                                       `1:1: column "a" is not known`,
		"name,type\n":                                 "1:1: no column holds the addresses (call it address",
		"address,type\n":                              "1:1: no column holds the names",
		"name,address,scael\n":                        `1:14: column "scael" is not known (known columns: name, table`,
		"name,address,gain\n":                         `1:14: column "gain" is a factor with some makers and a divisor with others (name it scale`,
		"name,address,register\n":                     `1:14: column "register" holds the address, and so does column "address"`,
		head + "a,1,int24,,,,\n":                      `2:5: type: "int24" is not known (one of bool, int16`,
		head + "a,,,,,,\n":                            "2:1: the row has no address",
		head + "a,x1,,,,,\n":                          `2:3: address: "x1" is not an address (decimal, or hexadecimal like 0x1A`,
		head + "a,100.5,,,,,\n":                       `a bit of a register has a column of its own: bit`,
		head + ",1,,,,,\n":                            "2:1: name: must not be empty",
		head + "a,65536,,,,,\n":                       "2:3: address: 65536 is outside 0 to 65535",
		head + "a,400101,,,,,\n":                      "in the numbers of old manuals 400101 is table: holding, address: 100",
		head + "é,1,,,\"0,1\",,\n":                    `2:7: scale: "0,1" is not a number (a decimal comma is read only in lists with semicolons`,
		head + "a,1,,,1/0,,\n":                        `2:7: scale: "1/0" is not a number (write it like`,
		head + "a,1,,,NaN,,\n":                        `2:7: scale: "NaN" is not a number`,
		head + "a,1,,16,,,\n":                         "2:6: bit: 16 is outside 0 to 15",
		head + "a,1,,-1,,,\n":                         `2:6: bit: "-1" is not a whole number`,
		head + "a,1,bool,,,,\n":                       "2:1: bit: is required",
		head + "a,1,,,,5,\n":                          `2:8: every: "5" is not a duration (write it with its unit`,
		head + "a,1,,,,5s,g\nb,2,,,,6s,g\n":           "3:8: 6s is not what another row of group g says, 5s",
		head + "a,1,,,,,g\n\na,2,,,,,g\n":             `4:1: name: "a" is the name of a value of points[0] already`,
		head + "a,1,,,,,?\n":                          `2:9: "?" is not a name`,
		head + "a,1,,,,1us,g\n":                       "2:12: group g: 1µs is outside",
		head + "a,1,,,,,g,h\n":                        "2:11: the row has more cells than the header",
		head + "a,1,\"x\n\nb,2\n":                     "the row begins in line 2",
		head + "a,1,\"x,,,,\n":                        `2:11: extraneous or missing " in quoted-field`,
		head + "a,1,x\"y,,,,\n":                       `2:6: bare " in non-quoted-field`,
		"name,table,modicon\na,coil,40001":            `2:8: "40001" is holding, another cell of the row says coil`,
		"name,address,hex\na,16,11":                   `2:6: "11" is address 17, another cell of the row says 16`,
		"name,modicon\na,50001":                       `2:3: "50001" is not a register number such as 40001`,
		"name,table,address\na,3,1":                   `2:3: "3" is not a table`,
		"name,fc,address\na,6,1":                      `2:3: "6" is not a table`,
		"name,address,access\na,1,?":                  `2:5: access: "?" is not known`,
		"name,address,counter\na,1,maybe":             "2:5: counter: \"maybe\" is neither yes nor no",
		"name,address,order\na,1,little":              `2:5: order: "little" is not known (ABCD, CDAB`,
		"name,address,enum\na,1,on":                   `2:5: enum: "on" is not number=name`,
		"name,address,enum\na,1,1=x|1=y":              `2:5: enum: 1 has two names`,
		"name,address,enum\na,1,x=1":                  `2:5: enum.x: "x" is not a number of 16 bits`,
		"name,address,invalid\na,1,70000":             `2:5: invalid[0]: "70000" is not a number`,
		"name,address,divisor\na,1,0":                 "2:5: divisor: must not be 0",
		"name,address,divisor,scale\na,1,10,2":        "2:5: divisor: the row has a scale already",
		"name,address,type,size\na,1,uint32,1":        "2:12: uint32 value takes 2 of the table, not 1",
		"name,address,type,count,size\na,1,int16,2,3": "2:13: int16 value takes 2 of the table, not 3",
		"\xFF\xFEn\x00a\x00":                          "1:1: the file is UTF-16 (save it as CSV UTF-8)",
		"PK\x03\x04":                                  "1:1: the file is a workbook, not CSV",
		"name,address\n" + strings.Repeat("a,1\n", maxListRows+1): "20002:1: more than 20000 rows",
	} {
		_, err := parseCSV("x.csv", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestAllFaultsOfAListAtOnce(t *testing.T) {
	_, err := parseCSV("x.csv", []byte("name,address,type,nonsense\na,x,int9,\nb,y,,\n"))
	want := "1:19 2:3 2:5 3:3"
	var got []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		f, ok := errors.AsType[*gateway.FileError](e)
		if !ok {
			t.Fatalf("%v is no FileError", e)
		}
		got = append(got, fmt.Sprintf("%d:%d", f.Line, f.Column))
	}
	if strings.Join(got, " ") != want {
		t.Error(got)
	}
	_, err = parseCSV("x.csv", []byte("name,address\n"+strings.Repeat("a,x\n", 200)))
	if n := len(err.(interface{ Unwrap() []error }).Unwrap()); n != maxListFaults+1 || !strings.Contains(err.Error(), "and 150 more from here on") {
		t.Error(n)
	}
}

func TestDecodeFile(t *testing.T) {
	var p Profile
	if handled, err := p.DecodeFile("a.yaml", []byte("name: x")); handled || err != nil {
		t.Error(handled, err)
	}
	if handled, err := p.DecodeFile("A.CSV", []byte("name,address\nx,1\n")); !handled || err != nil || p.Name != "A" || len(p.Groups) != 1 {
		t.Error(handled, err, p)
	}
	before := p
	if handled, err := p.DecodeFile("b.csv", []byte("name,address\nx,y\n")); !handled || err == nil || p.Name != before.Name {
		t.Error(handled, err)
	}
}

// TestExampleList reads the list that comes with the gateway, from the values
// of its registers.
func TestExampleList(t *testing.T) {
	data, err := os.ReadFile("../../configs/devices/example.csv")
	if err != nil {
		t.Fatal(err)
	}
	p := soundList(t, string(data))
	var names []string
	for i := range p.Groups {
		d, err := compile(p, &p.Groups[i])
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprintf("%s:%d", p.Groups[i].Name, len(d.values(nil, nil))))
	}
	if got := strings.Join(names, " "); got != "electrical:3 thermal:5 totals:1 states:4 identity:1" {
		t.Error(got)
	}
}

// FuzzCSV reads anything: faults with a place, or a profile that is valid.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"name,address\na,1\n", "sep=;\nname;modicon;enum\na;40001;0=x|1=y", "#,name\thex\n\"", "name,address,type,count,bit,width,invalid,enum\na,0x1,uint32,3,1,2,0x5|-1,-1=x",
		"\uFEFFname,address,scale,deadband\nü,1,1/3,5%\n", "name;address;invalid;type\n\xFC;1;1,5;float16\n", "name,address,type,size,order\na,1,bcd64,4,CDAB"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseCSV("x.csv", data)
		if err != nil {
			lines := strings.Count(string(data), "\n") + 1
			for _, e := range unjoin(err) {
				fe, ok := errors.AsType[*gateway.FileError](e)
				if !ok || fe.Line < 1 || fe.Line > lines || fe.Column < 1 || fe.Msg == "" {
					t.Fatalf("%v of %d lines", e, lines)
				}
			}
			return
		}
		if errs := p.validate(""); errs != nil {
			t.Fatal(errs)
		}
		for i := range p.Groups {
			d, err := compile(p, &p.Groups[i])
			if err != nil {
				t.Fatal(err)
			}
			if v := d.values(nil, nil); len(v) == 0 || len(v) > maxValues {
				t.Fatalf("%d values", len(v))
			}
		}
	})
}

func unjoin(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}
