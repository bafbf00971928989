// Writes batches.txt with Kafka's own client library, and reads what mecha wrote. By hand, after a change of either:
//
//   mvn -q dependency:copy-dependencies -DoutputDirectory=libs     (with kafka-clients 4.3.0 as the only dependency)
//   java -cp 'libs/*' Batches.java > batches.txt
//   MECHA_BATCHES=/tmp/ours.txt cargo test -p mecha-kafka --test batches; java -cp 'libs/*' Batches.java /tmp/ours.txt

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;

import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.record.internal.SimpleRecord;

public class Batches {
    public static void main(String[] args) throws Exception {
        if (args.length == 1) {
            read(args[0]);
            return;
        }
        System.out.println("# Batches of Kafka's client library: compression, and the bytes.");
        for (CompressionType type : CompressionType.values()) {
            if (type == CompressionType.NONE) {
                continue; // The control batch is not compressed, and these records are long.
            }
            MemoryRecords records = MemoryRecords.withTransactionalRecords(
                    1000, Compression.of(type).build(), 77L, (short) 3, 42, 5, records());
            print(type.name, records.buffer());
        }
        MemoryRecords control = MemoryRecords.withEndTransactionMarker(
                2000, 1700000000000L, 5, 77L, (short) 3, new EndTransactionMarker(ControlRecordType.COMMIT, 9));
        print("control", control.buffer());
    }

    static SimpleRecord[] records() {
        SimpleRecord[] records = new SimpleRecord[40];
        for (int i = 0; i < records.length; i++) {
            byte[] key = i % 3 == 0 ? null : ("key-" + i).getBytes(StandardCharsets.UTF_8);
            byte[] value = i % 7 == 0 ? null : "value ".repeat(i * 10).getBytes(StandardCharsets.UTF_8);
            Header[] headers = i % 2 == 0 ? new Header[0] : new Header[] {
                new RecordHeader("same", "first".getBytes(StandardCharsets.UTF_8)),
                new RecordHeader("same", new byte[] {(byte) 0xff, 0}),
                new RecordHeader("none", null),
            };
            records[i] = new SimpleRecord(1700000000000L + i * 1000L - (i == 5 ? 9000 : 0), key, value, headers);
        }
        return records;
    }

    static void print(String name, ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        System.out.println(name + " " + HexFormat.of().formatHex(bytes));
    }

    /** Every line is a batch with the records above, and one more header for each. */
    static void read(String file) throws Exception {
        int batches = 0;
        for (String line : Files.readAllLines(Path.of(file))) {
            byte[] bytes = HexFormat.of().parseHex(line.substring(line.indexOf(' ') + 1));
            for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
                batch.ensureValid();
                int i = 0;
                for (org.apache.kafka.common.record.internal.Record record : batch) {
                    SimpleRecord expected = records()[i];
                    Header[] headers = record.headers();
                    Header last = headers[headers.length - 1];
                    boolean same = record.offset() == 1000 + i && record.timestamp() == expected.timestamp()
                            && java.util.Objects.equals(record.key(), expected.key())
                            && java.util.Objects.equals(record.value(), expected.value())
                            && headers.length == expected.headers().length + 1
                            && last.key().equals("traceparent") && new String(last.value()).equals("00-1");
                    if (!same) {
                        throw new IllegalStateException(line.substring(0, 10) + " record " + i + ": " + record);
                    }
                    i++;
                }
                if (i != 40 || batch.producerId() != 77 || batch.baseSequence() != 42) {
                    throw new IllegalStateException("batch " + batch);
                }
                batches++;
            }
        }
        System.out.println(batches + " batches are what they should be");
    }
}
