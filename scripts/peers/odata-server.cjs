// odata-server.cjs MODULES METADATA DATA: an OData 4 service that is not ours (SAP's fe-mockserver-core) at /api/data/v9.2, with tables that look like Dataverse's.
//
// MODULES is the folder node_modules that holds it, METADATA a CSDL file, DATA a folder with rows. Prints PORT and the port on 127.0.0.1; ends with its standard input.
"use strict";
const http = require("http");
const path = require("path");
const [modules, metadataPath, mockdataPath] = process.argv.slice(2);
const Mockserver = require(path.join(modules, "@sap-ux/fe-mockserver-core")).default;

async function main() {
  const service = { urlPath: "/api/data/v9.2", metadataPath, mockdataPath, generateMockData: false };
  const mock = new Mockserver({ services: [service], annotations: [], plugins: [], contextBasedIsolation: false });
  await mock.isReady;
  const router = mock.getRouter();
  const server = http.createServer((request, response) =>
    router(request, response, () => {
      response.statusCode = 404;
      response.end();
    }),
  );
  server.listen(0, "127.0.0.1", () => console.log(`PORT ${server.address().port}`));
  process.stdin.on("end", () => process.exit(0)).resume();
}
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
