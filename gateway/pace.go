package gateway

import (
	"fmt"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Bounds of the size of a batch, in stored bytes, and of what one Send may take.
const (
	firstBatchBytes = 64 << 10 // with which a sink begins, and after each failure
	leastBatchBytes = 8 << 10
	// plainBatchBytes and maxBatchRecords are enough where a round trip costs
	// little. Over a satellite batches grow to mostBatchBytes and
	// mostBatchRecords, as long as that brings more through.
	plainBatchBytes  = maxBatchBytes
	mostBatchBytes   = 4 << 20
	mostBatchRecords = maxBatchRecords * mostBatchBytes / plainBatchBytes

	// targetSend is how long a Send may take before batches become smaller: a
	// record of the first lane waits for it, and when the link fails it is what
	// is sent again.
	targetSend = 10 * time.Second
	// farSend is from when on a Send may be mostly round trips.
	farSend = 200 * time.Millisecond
	// worthwhile is what a batch of twice the size must gain in bytes per
	// second, in percent, for batches beyond plainBatchBytes to stay.
	worthwhile = 25
	// holdSends is how many batches are sent before that is tried again.
	holdSends = 64
)

// BatchLimits bound the batches to a sink. Zero values leave it to the gateway.
type BatchLimits struct {
	Records int           // at most, 1 to 8,192
	Bytes   int           // at most, stored size, 8 KiB to 4 MiB
	Wait    time.Duration // waited after a batch that was not full; not for the first lane
}

// check says what is wrong with the limits.
func (l BatchLimits) check() error {
	switch {
	case l.Records < 0 || l.Records > mostBatchRecords:
		return fmt.Errorf("batches of %d records: use 1 to %d", l.Records, mostBatchRecords)
	case l.Bytes != 0 && (l.Bytes < leastBatchBytes || l.Bytes > mostBatchBytes):
		return fmt.Errorf("batches of %d bytes: use %d to %d", l.Bytes, leastBatchBytes, mostBatchBytes)
	case l.Wait < 0:
		return fmt.Errorf("a wait of %s before a batch: use 0 or more", l.Wait)
	}
	return nil
}

// pacing is how large the batches to a sink are. It learns that from how long
// each Send takes: it begins small, doubles while Sends are quick, and takes
// what fits targetSend when they are slow. So a link of 9.6 kbit/s gets batches
// of 8 KiB, a LAN such as one Send takes some milliseconds for, and a satellite
// link few large ones, since each costs at least one round trip.
//
// A batch is the same until it is done, so after a failure the next begins
// small: it may be for another link.
type pacing struct {
	max    BatchLimits
	limit  int           // bytes of the next batch; 0 = firstBatchBytes
	full   bool          // the batch took the limit: more was waiting
	cut    bool          // the batch is less than what was read
	begun  time.Time     // when Send was called for the batch
	took   time.Duration // by that Send
	trying bool          // Send has not returned nil or refusals
	spoilt bool          // it failed before: the time says nothing
	rate   float64       // bytes per second before the limit was last doubled beyond plainBatchBytes; 0 = it was not
	hold   int           // batches before it is tried again
}

// bytes is the limit of the next batch.
func (p *pacing) bytes() int {
	if p.limit == 0 {
		p.limit = firstBatchBytes
	}
	if p.max.Bytes > 0 {
		return min(p.limit, p.max.Bytes)
	}
	return p.limit
}

// records is the same in records.
func (p *pacing) records() int {
	n := maxBatchRecords * max(1, p.bytes()/plainBatchBytes)
	if p.max.Records > 0 {
		return min(n, p.max.Records)
	}
	return n
}

// narrow makes of what a lane may be read of what is read. Of records that a
// filter picks more is read, for most may be left out.
func (p *pacing) narrow(lim buffer.Limit, picks bool) buffer.Limit {
	most := p.bytes()
	if picks {
		most = max(most, plainBatchBytes)
	}
	if lim.Bytes < maxBatchBytes { // what another lane lets it have
		most = min(lim.Bytes, most)
	}
	return buffer.Limit{Records: p.records(), Bytes: most}
}

// enough reports whether a batch with n records of so many bytes has no room
// for another one of size bytes. A little more than the limit is taken whole.
func (p *pacing) enough(n, bytes, size int) bool {
	return n > 0 && (n >= p.records() || bytes+size > p.bytes()+p.bytes()/2)
}

// made notes a batch that was made.
func (p *pacing) made(b *Batch, cut bool) {
	p.cut, p.spoilt, p.trying = cut, false, false
	p.full = cut || b.Bytes >= p.bytes()/4*3 || len(b.Items) >= p.records()/4*3
}

// begin notes that Send is called.
func (p *pacing) begin() {
	p.begun, p.spoilt, p.trying = time.Now(), p.spoilt || p.trying, true
}

// failed notes that it failed. The first time of a batch makes the next smaller.
func (p *pacing) failed() {
	if !p.spoilt {
		p.limit = max(leastBatchBytes, min(p.bytes()/2, firstBatchBytes))
		p.rate, p.hold = 0, 0
	}
	p.spoilt = true
}

// done notes that a batch of so many bytes is confirmed.
func (p *pacing) done(bytes int) {
	took := time.Since(p.begun)
	p.trying, p.took = false, took
	if p.spoilt || bytes == 0 {
		return
	}
	p.hold = max(0, p.hold-1)
	limit := p.bytes()
	switch {
	case took > targetSend:
		fits := int(float64(bytes) * float64(targetSend) / float64(took))
		if !p.full { // few bytes and a long time: a link that stood still
			fits = max(fits, limit/2)
		}
		p.limit, p.rate = max(leastBatchBytes, min(limit, fits)), 0
	case !p.full:
	case limit < plainBatchBytes:
		if took < targetSend/2 {
			p.limit = min(plainBatchBytes, 2*limit)
		}
	default:
		p.reach(limit, float64(bytes)/max(took.Seconds(), 1e-9), took)
	}
}

// reach decides on batches beyond plainBatchBytes: where a Send is mostly round
// trips, a batch of twice the size takes hardly longer.
func (p *pacing) reach(limit int, rate float64, took time.Duration) {
	if p.rate > 0 && rate < p.rate*(100+worthwhile)/100 {
		p.limit, p.rate, p.hold = max(plainBatchBytes, limit/2), 0, holdSends
		return
	}
	p.rate = 0
	if limit < mostBatchBytes && p.hold == 0 && took >= farSend && took < targetSend/2 {
		p.limit, p.rate = 2*limit, rate
	}
}

// pause is how long to wait after a batch before the next is begun.
func (f *forwarder) pause(b *Batch) time.Duration {
	switch {
	case f.pace.full:
		return 0
	case f.pace.max.Wait > 0 && f.lane > 0:
		return f.pace.max.Wait
	}
	return max(0, pauseAfter(len(b.Items))-f.pace.took) // while it was sent, records have gathered already
}
