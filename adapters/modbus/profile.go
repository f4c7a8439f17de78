package modbus

import "time"

// Profile says what is read of a kind of device: its registers, their types
// and its limits. It is data; docs/modbus.md tells how one is written.
type Profile struct {
	Name    string   `yaml:"name" doc:"The device, as its maker calls it." example:"Eastron SDM630-Modbus"`
	Doc     string   `yaml:"doc" doc:"What a person should know of it." example:"Addresses are those on the line, from 0."`
	Source  string   `yaml:"source" doc:"Where the register map is published: title, edition."`
	Limits  Limits   `yaml:"limits" doc:"What the device takes in one request."`
	Order   string   `yaml:"order" doc:"Order of the bytes of values of several registers: ABCD is big-endian, CDAB has the low word first, BADC and DCBA swap the bytes of each register. Default ABCD." enum:"ABCD,CDAB,BADC,DCBA"`
	Groups  []Group  `yaml:"groups" doc:"What is polled together and makes one record."`
	SunSpec *SunSpec `yaml:"sunspec" doc:"For devices with SunSpec models: they are found on the device."`
}

// Limits are what a device takes.
type Limits struct {
	Words     int     `yaml:"words" doc:"Registers in one request, at most. Default 125, the most Modbus allows."`
	Bits      int     `yaml:"bits" doc:"Coils or discrete inputs in one request, at most. Default 2000, the most Modbus allows."`
	Gap       *int    `yaml:"gap" doc:"Registers that nobody asked for which may be read to spare a request, in one piece; 0: none. Of coils and discrete inputs sixteen times as many. Default 10."`
	Forbidden []Range `yaml:"forbidden" doc:"Ranges that must not be read: the device refuses them, or reading does something."`
}

// Range is a run of addresses of a table.
type Range struct {
	Table string `yaml:"table" doc:"Table." enum:"coil,discrete,holding,input"`
	From  int    `yaml:"from" doc:"First address, from 0."`
	To    int    `yaml:"to" doc:"Last address."`
}

// Group is what is polled together.
type Group struct {
	Name   string        `yaml:"name" doc:"Name of the group: the name of its records. Unique in the profile." example:"electrical"`
	Every  time.Duration `yaml:"every" doc:"Time between two polls. Default: every of the device."`
	Points []Point       `yaml:"points" doc:"What is read."`
	Select *Select       `yaml:"select" doc:"Registers written in the same transaction before the points are read (function 23), for devices that show what is asked for. The points must then fit one request."`
}

// Select is what is written before a read (function 23).
type Select struct {
	Address int      `yaml:"address" doc:"First holding register to write, from 0."`
	Values  []uint16 `yaml:"values" doc:"What is written."`
}

// Point is one value of a device.
type Point struct {
	Name     string            `yaml:"name" doc:"Name of the value, unique in the group." example:"voltage_l1"`
	Table    string            `yaml:"table" doc:"Where it is: coil (function 1), discrete input (2), holding register (3), input register (4), or fifo, a queue of registers (24). Default holding." enum:"coil,discrete,holding,input,fifo"`
	Address  int               `yaml:"address" doc:"First register, coil or input, from 0: register 40001 of old manuals is holding register 0."`
	Type     string            `yaml:"type" doc:"Type. bool is for coils and discrete inputs, or one bit of a register. bcd takes four digits of each register. bits is a bit field, each bit a value of its own, named by enum. Default uint16, bool for coils and discrete inputs." enum:"bool,int16,uint16,int32,uint32,int64,uint64,float16,float32,float64,bcd16,bcd32,bcd64,string,bytes,bits16,bits32"`
	Count    int               `yaml:"count" doc:"Values of this type in a row, named name.0, name.1 …; of string and bytes, the registers that it takes. Default 1."`
	Order    string            `yaml:"order" doc:"Order of the bytes when it is not that of the profile. Of text: ABCD or BADC." enum:"ABCD,CDAB,BADC,DCBA"`
	Bit      *int              `yaml:"bit" doc:"Bit that the value begins with, 0 is the least; the register is then read as a whole number without a sign, and bool is that bit. Of int16, int32 and int64 the part is two's complement."`
	Width    int               `yaml:"width" doc:"With bit: how many bits the value has. Default 1."`
	Scale    float64           `yaml:"scale" doc:"What the number is multiplied with; the value is then a float64. 0 and 1: it is not." example:"0.1"`
	Offset   float64           `yaml:"offset" doc:"What is added after that."`
	ScaleAt  *int              `yaml:"scale_at" doc:"Holding or input register, of the same table, with the power of ten the number is multiplied with (int16), as SunSpec has them."`
	Unit     string            `yaml:"unit" doc:"Unit of measure of the scaled value." example:"V"`
	Enum     map[string]string `yaml:"enum" doc:"Names of numbers (of bits, for bit fields): the value becomes text. A number without a name stays one." example:"{0: stopped, 1: running}"`
	Invalid  []string          `yaml:"invalid" doc:"Numbers that mean there is no value, such as 0x8000: the value is bad. As they are on the line, before scale: decimal, or 0x and the bits of the whole type. NaN always is one." example:"[\"0x8000\"]"`
	Min      *float64          `yaml:"min" doc:"Least plausible value, scaled; below it the value is uncertain."`
	Max      *float64          `yaml:"max" doc:"Greatest plausible value, scaled; above it the value is uncertain."`
	Counter  bool              `yaml:"counter" doc:"Whether the number (uint or bcd) counts upwards and starts over at its end: the value goes on over that, and over restarts of the gateway."`
	Deadband float64           `yaml:"deadband" doc:"Change of the scaled value from which on it counts as changed."`
	Percent  float64           `yaml:"deadband_percent" doc:"The same in percent of the value last reported. Of both, the greater counts."`
	Doc      string            `yaml:"doc" doc:"What a person should know of it."`
}

// SunSpec says which SunSpec models are read and how.
type SunSpec struct {
	Bases  []int          `yaml:"bases" doc:"Holding registers where the map may begin. Default 40000, 0, 50000."`
	Models []SunSpecModel `yaml:"models" doc:"Models that are read where the device has them; others are passed over."`
}

// SunSpecModel is one SunSpec model: a group whose addresses count from its start.
type SunSpecModel struct {
	IDs   []int `yaml:"ids" doc:"Identifiers of the models with this layout, e.g. [101, 102, 103]."`
	Group Group `yaml:",inline"`
}
