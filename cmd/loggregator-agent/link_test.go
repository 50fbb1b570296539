package main

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// TestSendOverGRPC: the lines go to an agent or router of the v2 API all the same.
func TestSendOverGRPC(t *testing.T) {
	router := loggregator.New(nil)
	defer router.Close()
	server := grpcv2.NewServer(router, nil, nil)
	defer server.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(ln)
	addr := "grpc://" + ln.Addr().String()
	if err := checkServers(addr); err != nil {
		t.Fatal(err)
	}
	s, err := newSender(&settings{server: addr, budget: 1 << 20}, envelope.Identity{SourceID: "shop"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		s.Log(envelope.Out, "x")
	}
	for deadline := time.Now().Add(30 * time.Second); !s.reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not connected: %+v", s.link.Stats())
		}
	}
	if err := s.finish(30 * time.Second); err != nil {
		t.Error(err)
	}
	if r, l := router.Stats(), s.link.Stats(); r.Accepted != 100 || l.Acked != 100 || s.link.Servers()[0].Address != addr {
		t.Errorf("%+v; %+v", r, l)
	}
	if err := checkServers(addr + ",tcp://127.0.0.1:1"); err == nil {
		t.Error("servers of both kinds were accepted")
	}
}

// TestGRPCDoor: programs that speak the v2 API send to the agent.
func TestGRPCDoor(t *testing.T) {
	collected, program := loggregator.New(nil), loggregator.New(nil)
	defer collected.Close()
	defer program.Close()
	place := t.TempDir() + "/v2.sock"
	p, err := (&config{}).grpc(grpcConfig{Listen: address{"unix", place}}, collected, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- p.run() }()
	link, err := grpcv2.NewLink("grpc://agent:3458", program, &grpcv2.LinkOptions{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", place)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := emitter.New(program, envelope.Identity{SourceID: "shop"}, nil)
	for range 100 {
		e.Log(envelope.Out, "x")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := link.Flush(ctx); err != nil {
		t.Errorf("%v; %+v", err, link.Stats())
	}
	link.Close()
	if r := collected.Stats(); r.Accepted != 100 {
		t.Errorf("%+v", r)
	}
	figures := make(map[string]float64)
	p.figures(func(m ops.Metric) { figures[m.Name] += m.Value })
	if figures["agent_records_total"] != 100 {
		t.Errorf("%v", figures)
	}
	if err := p.stop(ctx); err != nil {
		t.Error(err)
	}
	if err := ended(<-ran); err != nil {
		t.Error(err)
	}
}
