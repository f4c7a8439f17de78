package gateway

// Intake takes records from one source.
type Intake struct{}

// Up says that data can flow.
func (in *Intake) Up() {}

// Deliver takes recs and calls done exactly once, in the order of the
// Deliver calls, after the records are in a synced commit (nil) or when they
// could not be stored (the error). Deliver never blocks; the records and
// what they point to may be reused when it returns. One goroutine at a time.
// done runs on the committer's goroutine and must not block. The source
// bounds what it has delivered and not yet seen done.
func (in *Intake) Deliver(recs []Record, done func(error)) {}
