package main

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicPartition names a partition.
type topicPartition struct {
	topic     string
	partition int32
}

// span is the part of a partition that is read: [first, end).
type span struct{ first, end, high int64 }

// consumeAll hands every committed record of the topics that match one of the
// glob patterns to see, each partition in order, up to the end as it is now.
// It returns how many records are beyond the last stable offset, that is of
// transactions still open. ctx bounds it.
func consumeAll(ctx context.Context, brokers, patterns []string, see func(*kgo.Record)) (open int64, err error) {
	admin, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return 0, fmt.Errorf("connect to kafka %s: %w", strings.Join(brokers, ","), err)
	}
	defer admin.Close()
	spans, err := findSpans(ctx, admin, patterns)
	if err != nil {
		return 0, fmt.Errorf("list topics of kafka %s: %w", strings.Join(brokers, ","), err)
	}
	offsets := map[string]map[int32]kgo.Offset{}
	for tp, s := range spans {
		open += s.high - s.end
		if s.end <= s.first {
			delete(spans, tp)
			continue
		}
		if offsets[tp.topic] == nil {
			offsets[tp.topic] = map[int32]kgo.Offset{}
		}
		offsets[tp.topic][tp.partition] = kgo.NewOffset().At(s.first)
	}
	if len(spans) == 0 {
		return open, nil
	}
	reader, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumePartitions(offsets),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // a partition may end with one
	)
	if err != nil {
		return open, fmt.Errorf("connect to kafka %s: %w", strings.Join(brokers, ","), err)
	}
	defer reader.Close()
	return open, readSpans(ctx, reader, spans, see)
}

// readSpans polls until every span is read; spans is emptied.
func readSpans(ctx context.Context, reader *kgo.Client, spans map[topicPartition]span, see func(*kgo.Record)) error {
	for len(spans) > 0 {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("read kafka: %d partitions not read to their end: %w", len(spans), ctx.Err())
		}
		if errs := fetches.Errors(); len(errs) > 0 {
			return fmt.Errorf("read kafka %s/%d: %w", errs[0].Topic, errs[0].Partition, errs[0].Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			tp := topicPartition{r.Topic, r.Partition}
			s, ok := spans[tp]
			if !ok || r.Offset >= s.end {
				return
			}
			if !r.Attrs.IsControl() {
				see(r)
			}
			if r.Offset == s.end-1 {
				delete(spans, tp)
			}
		})
	}
	return nil
}

// findSpans returns what there is to read of every partition of the matching
// topics.
func findSpans(ctx context.Context, cl *kgo.Client, patterns []string) (map[topicPartition]span, error) {
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	spans := map[topicPartition]span{}
	for _, t := range meta.Topics {
		if t.Topic == nil || t.IsInternal || strings.HasPrefix(*t.Topic, "__") || !matches(*t.Topic, patterns) {
			continue
		}
		for _, p := range t.Partitions {
			spans[topicPartition{*t.Topic, p.Partition}] = span{}
		}
	}
	const earliest, latest = -2, -1
	err = listOffsets(ctx, cl, spans, offsetQuery{earliest, 0, func(s *span, o int64) { s.first = o }})
	if err == nil {
		err = listOffsets(ctx, cl, spans, offsetQuery{latest, 1, func(s *span, o int64) { s.end = o }})
	}
	if err == nil {
		err = listOffsets(ctx, cl, spans, offsetQuery{latest, 0, func(s *span, o int64) { s.high = o }})
	}
	return spans, err
}

// offsetQuery is one question to ListOffsets and where its answer goes.
type offsetQuery struct {
	timestamp int64
	isolation int8 // 1: the last stable offset
	set       func(*span, int64)
}

func listOffsets(ctx context.Context, cl *kgo.Client, spans map[topicPartition]span, q offsetQuery) error {
	if len(spans) == 0 {
		return nil
	}
	byTopic := map[string][]kmsg.ListOffsetsRequestTopicPartition{}
	for tp := range spans {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = tp.partition, q.timestamp
		byTopic[tp.topic] = append(byTopic[tp.topic], p)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, q.isolation
	for topic, ps := range byTopic {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic, t.Partitions = topic, ps
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err)
			}
			tp := topicPartition{t.Topic, p.Partition}
			s := spans[tp]
			q.set(&s, p.Offset)
			spans[tp] = s
		}
	}
	return nil
}

// matches reports whether a topic matches one of the patterns; no pattern
// matches all.
func matches(topic string, patterns []string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, topic); ok && err == nil {
			return true
		}
	}
	return len(patterns) == 0
}
