package modbus

import (
	"container/heap"
	"hash/fnv"
	"math"
	"time"
)

// All times of the schedule are since the source was first run.

// job is something to be done on the line when its time has come: the poll of a
// group, the probe of a unit that is dead, or the search for SunSpec models.
type job struct {
	u        *unit
	g        *group // nil: it is u.probe or u.lookup
	every    time.Duration
	phase    time.Duration // polls are due at phase + cycle × every
	cycle    int64         // -1: before the first
	due      time.Duration
	deadline time.Duration // to be done before it
	tries    int           // requests of this cycle without an answer
	cuts     int           // times the line was lost in this cycle
	blind    int           // times it was lost before anybody had answered, since the last poll that was made
	busy     int           // times the unit asked for patience in this cycle
	early    early         // why it is due before its cycle
	running  bool
	gone     bool  // it is not to be done any more
	heap     *jobs // nil: in none
	at       int
}

// jobs is a heap of jobs.
type jobs struct {
	list       []*job
	byDeadline bool // else by due
}

func (h *jobs) Len() int { return len(h.list) }
func (h *jobs) Less(i, j int) bool {
	if h.byDeadline {
		return h.list[i].deadline < h.list[j].deadline
	}
	return h.list[i].due < h.list[j].due
}
func (h *jobs) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].at, h.list[j].at = i, j
}
func (h *jobs) Push(x any) {
	j := x.(*job)
	j.heap, j.at = h, len(h.list)
	h.list = append(h.list, j)
}
func (h *jobs) Pop() any {
	n := len(h.list) - 1
	j := h.list[n]
	h.list[n], h.list = nil, h.list[:n]
	j.heap = nil
	return j
}

// first returns the first job, nil when there is none.
func (h *jobs) first() *job {
	if len(h.list) == 0 {
		return nil
	}
	return h.list[0]
}

// out takes j out of the heap it is in.
func (j *job) out() {
	if j.heap != nil {
		heap.Remove(j.heap, j.at)
	}
}

// schedule holds the jobs that are not being done. Those whose time has come
// are in one of three heaps: of units that answer, of units that have never been
// asked, and of units that owe an answer. source.mu guards it.
type schedule struct {
	waiting           jobs
	good, fresh, poor jobs
}

// put adds j.
func (q *schedule) put(j *job) {
	j.out()
	if j.gone {
		return
	}
	heap.Push(&q.waiting, j)
}

// ripen moves what is due to the heap of its kind.
func (q *schedule) ripen(now time.Duration) {
	for j := q.waiting.first(); j != nil && j.due <= now; j = q.waiting.first() {
		heap.Pop(&q.waiting)
		heap.Push(q.ready(j), j)
	}
}

// ready returns the heap for a job that is due.
func (q *schedule) ready(j *job) *jobs {
	switch u := j.u; {
	case u.dead || u.strikes > 0 || j.cuts+j.blind > 0 || j.g != nil && j.g.strikes > 0:
		return &q.poor
	case u.proven:
		return &q.good
	case j.tries == 0:
		return &q.fresh
	}
	return &q.poor
}

// sort puts the jobs of u that are due where they now belong.
func (q *schedule) sort(u *unit) {
	for j := range u.jobs() {
		if h := j.heap; h != nil && h != &q.waiting && h != q.ready(j) {
			j.out()
			heap.Push(q.ready(j), j)
		}
	}
}

// last is the latest deadline of the jobs of good units that are due.
func (q *schedule) last() (d time.Duration) {
	for _, j := range q.good.list {
		d = max(d, j.deadline)
	}
	return d
}

// cycleAt is the cycle that began last, -1 before the first.
func (j *job) cycleAt(now time.Duration) int64 {
	if now < j.phase {
		return -1
	}
	return int64((now - j.phase) / j.every)
}

// advance moves j to the cycle that begins next and returns how many were left out.
func (j *job) advance(now time.Duration) (missed int64) {
	k := j.cycleAt(now) + 1
	missed = k - j.cycle - 1
	j.set(k)
	return max(0, missed)
}

// set makes j due in cycle k.
func (j *job) set(k int64) {
	j.cycle, j.due = k, j.phase+time.Duration(k)*j.every
	j.deadline = j.due + j.every
	j.tries, j.cuts, j.busy, j.early = 0, 0, 0, onTime
}

// soon makes j due now, in the cycle that is under way.
func (j *job) soon(now time.Duration) {
	j.set(j.cycleAt(now))
	j.due, j.deadline = now, now+j.every
}

// begin makes j due for the first time: within a second of start, however long
// its period is.
func (j *job) begin(start time.Duration) {
	j.set(0)
	wait := j.phase
	if j.every > firstWithin {
		wait = time.Duration(float64(j.phase) * float64(firstWithin) / float64(j.every))
	}
	j.due = start + wait
	j.cycle, j.deadline = j.cycleAt(j.due), j.due+min(j.every, firstWithin)
}

// firstWithin is how soon everything is read once.
const firstWithin = time.Second

// spread sets the phases of groups: those of one period lie evenly in it, in
// the order of the configuration. Where the first lies depends on the name of
// the source, so that the polls of a thousand sources do not bunch either, and
// on the period, so that groups of different periods do not all begin at once.
func spread(source string, groups []*group) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(source))
	offset := float64(h.Sum32()) / (1 << 32)
	byPeriod := map[time.Duration][]*group{}
	var periods []time.Duration
	for _, g := range groups {
		if byPeriod[g.every] == nil {
			periods = append(periods, g.every)
		}
		byPeriod[g.every] = append(byPeriod[g.every], g)
	}
	const golden = 0.6180339887498949 // leaves the largest gaps between any number of offsets
	for c, every := range periods {
		same := byPeriod[every]
		_, part := math.Modf(offset + golden*float64(c))
		for i, g := range same {
			_, where := math.Modf((float64(i) + part) / float64(len(same)))
			g.phase = time.Duration(where * float64(every))
		}
	}
}
