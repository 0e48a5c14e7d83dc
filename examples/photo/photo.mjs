// What is on a photo, by a file that `kedge export --input photo` wrote. One line of JSON for each photo.
//
//   npm install --ignore-scripts
//   node photo.mjs litter-photo.onnx photo.jpg ...
//
// ORT=onnxruntime-web (npm install --ignore-scripts onnxruntime-web) runs the same file in WebAssembly, as a browser does.
// LEAST=2.2 answers "unsure" below these log odds of the confidence too (2.2 is a confidence of 0.9): a threshold above
// the file's own, which stays in force, as does what is "unknown".
import { readFile } from "node:fs/promises";
import sharp from "sharp";

const ort = await import(process.env.ORT ?? "onnxruntime-node");
ort.env.logLevel = "error";
if (ort.env.wasm) ort.env.wasm.numThreads = 1;
const least = process.env.LEAST === undefined ? null : Number(process.env.LEAST);

const [model, ...photos] = process.argv.slice(2);
const session = await ort.InferenceSession.create(new Uint8Array(await readFile(model)));

for (const name of photos) {
  // Upright as the camera says, without alpha, three channels also of grey; sharp decodes JPEG as Pillow does.
  const { data, info } = await sharp(name)
    .autoOrient()
    .removeAlpha()
    .toColourspace("srgb")
    .raw()
    .toBuffer({ resolveWithObject: true });
  const photo = new ort.Tensor("uint8", new Uint8Array(data), [info.height, info.width, info.channels]);

  const began = performance.now();
  const said = await session.run({ photo });
  const milliseconds = performance.now() - began;

  const logOdds = said.log_odds.data[0];
  // Thresholds are optional inputs of the file, which JavaScript's onnxruntime does not pass on: compare here instead.
  const own = said.answer.data[0];
  const known = said.score === undefined || !["unknown", "(unknown)"].includes(own);
  const answer = known && least !== null && !(logOdds >= least) ? "unsure" : own;
  console.log(
    JSON.stringify({
      photo: name,
      answer,
      label: Number(said.label.data[0]),
      confidence: said.confidence.data[0],
      log_odds: logOdds,
      probabilities: Array.from(said.probabilities.data),
      milliseconds,
    }),
  );
}
