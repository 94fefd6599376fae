//! Rules of Read: bounds, following, filters, forms.

use sawlog_proto::v1::{self, read_end::At as End, read_response::Frame, read_start::At as Start};
use sawlog_testing::TestBroker;

use crate::wire::{Wire, all_of, unkeyed, value};

#[tokio::test]
async fn what_is_written_comes_back_in_order() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", unkeyed(1)).await;
    for batch in 0..3 {
        wire.write("orders", (0..4).map(|index| value(format!("{batch}.{index}"))).collect()).await;
    }
    let read = wire.values(all_of("orders")).await;
    let expected: Vec<_> = (0..12).map(|offset| (0, offset, format!("{}.{}", offset / 4, offset % 4))).collect();
    assert_eq!(read, expected);
    let _ = (End::Count(1), Start::Last(1));
    let frames = wire.frames(all_of("orders")).await;
    assert!(matches!(frames.last(), Some(Frame::PartitionEnd(v1::PartitionEnd { partition: 0, offset: 12 }))));
    assert!(broker.shutdown().await);
}
