// Command waystation is an edge gateway: it reads devices, keeps every record
// in a durable queue and forwards it when the link allows.
package main
